"""Sweeps without a search, ``num_trials=0``: what is confirmed is exactly what was given."""

from typing import TYPE_CHECKING

from sweeps.search.checks import refuse
from sweeps.search.configurations import Configuration, config_id, read_points, split_point
from sweeps.search.domains import Domain

if TYPE_CHECKING:
    from sweeps.engine.sweep import Sweep


def check_unsearched(sweep: "Sweep") -> None:
    """Refuses a sweep without a search that leaves something open, or that has nothing else to do.

    Raises:
        SweepError: its space has a domain and no points are given, or it ends before confirm.
    """
    for name, value in sweep.space.items():
        if isinstance(value, Domain) and sweep.points is None:
            remedy = "give it one, or the configurations as points"
            refuse(f"space[{name!r}]", "must be a single value where num_trials is 0", str(value), remedy)
    if sweep.stage == "search":
        refuse("stage", "must be probe or confirm where num_trials is 0", sweep.stage, "leave it out, or search")
    if sweep.stage == "confirm" and sweep.confirm is None:
        refuse("confirm", "must be given where num_trials is 0", None, "for example Confirm(num_seeds=6)")


def given_configs(sweep: "Sweep") -> list[Configuration]:
    """The configurations that a sweep without a search confirms, each once: its points, else its space of constants.

    Raises:
        SweepError: the points cannot be read, or one names a precision or a seed, which are confirm's to choose.
    """
    if sweep.points is None:
        return [{name: value for name, value in sweep.space.items() if not isinstance(value, Domain)}]
    configs: dict[str, Configuration] = {}
    for point in read_points(sweep.points):
        config, *own = split_point(point)
        for name, value in zip(("precision", "seed"), own, strict=True):
            if value is not None:
                condition = f"must not name a {name} where num_trials is 0: confirm runs all precisions with new seeds"
                refuse("points", condition, value, "leave it out")
        configs.setdefault(config_id(config), config)
    return list(configs.values())
