"""Schedulers by name, and what a sweep has to give them; without Ray."""

from typing import TYPE_CHECKING

from sweeps.search.checks import one_of, refuse
from sweeps.search.mutation import check_planned, mutable

if TYPE_CHECKING:
    from sweeps.engine.sweep import Sweep

SCHEDULERS = ("asha", "hyperband", "median", "pbt", "fifo")
"""Schedulers by name; others of Ray's are given as objects."""

WITH_GRACE = ("asha", "median", "pbt")
"""The schedulers that use ``grace_period``."""


def check_scheduler(sweep: "Sweep") -> None:
    """Checks a sweep's scheduler, and what the sweep gives it to work with.

    Raises:
        SweepError: it is neither a known name nor a Ray scheduler that works here, or the sweep does not suit it.
    """
    if not isinstance(sweep.scheduler, str) and hasattr(sweep.scheduler, "on_trial_result"):
        from sweeps.search.given import check_given  # who gives such an object has imported Ray already

        check_given(sweep)
        return
    name = one_of("scheduler", sweep.scheduler, SCHEDULERS)
    if name == "pbt":
        mutable(sweep.space)
        check_planned(sweep)
    if name in WITH_GRACE and sweep.grace_period > sweep.max_reports:
        remedy = 'lower it, raise the budget, or use scheduler="fifo" to prune nothing'
        refuse("grace_period", f"must be at most the {sweep.max_reports} reports of a run", sweep.grace_period, remedy)
