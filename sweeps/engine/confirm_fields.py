"""The declaration of how winners are confirmed."""

from dataclasses import dataclass

from sweeps.engine.fields import CONFIRM, documented, option, set_fields
from sweeps.search.checks import MOST_RUNS, number, whole


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
