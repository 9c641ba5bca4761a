"""The declaration of how winners are confirmed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeps.engine.fields import CONFIRM, documented, option, set_fields
from sweeps.search.checks import MOST_RUNS, number, refuse, whole
from trainables.ladder import BASELINES, LADDER

if TYPE_CHECKING:
    from sweeps.engine.sweep import Sweep


@documented
@dataclass(frozen=True)
class Confirm:
    """How the winners of the search are confirmed."""

    top_k: int = option(1, CONFIRM, "best configurations of each precision, to run again in all precisions", "N")
    num_seeds: int = option(6, CONFIRM, "new seeds, and so pairs, of each configuration", "N")
    target_speedup: float = option(1.5, CONFIRM, "speed-up over the baseline that a PASS has to reach, e.g. 1.5", "X")
    margin: float = option(0.01, CONFIRM, "loss of metric that is acceptable, in the metric's own units", "X")

    def __post_init__(self) -> None:
        """Validates and normalizes the fields."""
        seeds_remedy = "6 or more give a useful interval"
        checked = {
            "top_k": whole(
                "confirm.top_k", self.top_k, at_least=1, at_most=MOST_RUNS, remedy="1 confirms each precision's best"
            ),
            "num_seeds": whole("confirm.num_seeds", self.num_seeds, at_least=1, at_most=MOST_RUNS, remedy=seeds_remedy),
            "target_speedup": number(
                "confirm.target_speedup", self.target_speedup, above=0, remedy="give a ratio such as 1.5"
            ),
            "margin": number("confirm.margin", self.margin, at_least=0, remedy="0.01 accepts the loss of one point"),
        }
        set_fields(self, checked)


def check_confirm(sweep: "Sweep") -> None:
    """Checks whether a sweep can be confirmed as it says.

    Raises:
        SweepError: it cannot.
    """
    if sweep.confirm is None:
        return
    if not isinstance(sweep.confirm, Confirm):
        refuse("confirm", "must be a Confirm or None", sweep.confirm, "for example Confirm(num_seeds=6)")
    if sweep.stage == "confirm" and not sweep.baselines:
        remedy = 'add fp32, or stop before with stage="search"'
        refuse("precisions", f"confirm needs a baseline ({' or '.join(BASELINES)})", ",".join(sweep.precisions), remedy)
    if sweep.stage == "confirm" and len(sweep.precisions) < 2:
        remedy = 'add one such as bf16-mixed, or stop before with stage="search"'
        refuse("precisions", "confirm compares at least two precisions", ",".join(sweep.precisions), remedy)
    compiled = [name for name in sweep.precisions if LADDER[name].needs_compile]
    if sweep.stage == "confirm" and compiled and not sweep.compile:
        # Its baseline would run eagerly, and every verdict of it be INVALID in the end.
        remedy = f'set compile, leave {" and ".join(compiled)} out, or stop before with stage="search"'
        refuse("compile", f"must be on where confirm compares {compiled[0]}, which is compiled", sweep.compile, remedy)
