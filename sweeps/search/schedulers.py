"""The scheduler of a sweep: one of ours or Ray's by name, or an object of Ray's."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import FIFOScheduler, HyperBandScheduler, MedianStoppingRule, TrialScheduler

from sweeps.search.asha import TIME, Asha
from sweeps.search.checks import one_of
from sweeps.search.configurations import stream
from sweeps.search.given import adopt, check_given
from sweeps.search.mutation import mutable
from sweeps.search.per_precision import PerPrecision
from sweeps.search.population import Population, ShieldedPopulation
from sweeps.search.shield import Shielded
from sweeps.search.successive_halving import SuccessiveHalving

if TYPE_CHECKING:
    from sweeps.engine.sweep import Sweep

MEDIAN_SAMPLES = 2
"""Other runs that a run must be compared with before the median rule may stop it. Ray's own 3 would prune nothing in a
sweep of three configurations."""


class HyperBand(HyperBandScheduler):
    """Ray's HyperBand, in which a bracket that loses a trial after its first halving goes on."""

    def _process_bracket(self, tune_controller: Any, bracket: Any) -> str:
        """Halves the bracket where all of its trials have come far enough."""
        try:
            return str(super()._process_bracket(tune_controller, bracket))
        finally:
            bracket.is_being_processed = False  # Ray never takes it back


def _asha(sweep: "Sweep", metric: str, mode: str, max_t: int) -> TrialScheduler:
    rule = SuccessiveHalving(max_t, sweep.grace_period, sweep.reduction_factor, mode)
    return Asha(rule, metric, mode)


def _hyperband(sweep: "Sweep", metric: str, mode: str, max_t: int) -> TrialScheduler:
    def build(precision: str) -> Shielded:
        # The best of a bracket run on until they end by themselves: Ray's last milestone may lie before max_t.
        scheduler = HyperBand(TIME, metric, mode, max_t, sweep.reduction_factor, stop_last_trials=False)
        return Shielded(scheduler, metric, mode)

    return PerPrecision(build, metric)


def _median(sweep: "Sweep", metric: str, mode: str, max_t: int) -> TrialScheduler:
    def build(precision: str) -> Shielded:
        scheduler = MedianStoppingRule(
            time_attr=TIME,
            metric=metric,
            mode=mode,
            grace_period=sweep.grace_period,
            min_samples_required=MEDIAN_SAMPLES,
            min_time_slice=math.inf,  # type: ignore[arg-type]  # else a run without company yields to those that wait
        )
        return Shielded(scheduler, metric, mode)

    return PerPrecision(build, metric)


def _pbt(sweep: "Sweep", metric: str, mode: str, max_t: int) -> TrialScheduler:
    domains = mutable(sweep.space)

    def build(precision: str) -> Shielded:
        seed = stream("pbt", sweep.seed, precision)
        return ShieldedPopulation(Population(domains, metric, mode, sweep.grace_period, seed), metric, mode)

    return PerPrecision(build, metric)


def _fifo(sweep: "Sweep", metric: str, mode: str, max_t: int) -> TrialScheduler:
    return FIFOScheduler()


BUILDERS: Mapping[str, Callable[["Sweep", str, str, int], TrialScheduler]] = {
    "asha": _asha,
    "hyperband": _hyperband,
    "median": _median,
    "pbt": _pbt,
    "fifo": _fifo,
}
"""How each scheduler is built, by the name that :class:`~sweeps.engine.sweep.Sweep` accepts."""


def make_scheduler(sweep: "Sweep", metric: str, mode: str, max_t: int) -> TrialScheduler:
    """The scheduler that a sweep names, or its Ray scheduler object behind a shield.

    Args:
        sweep: names the scheduler and its settings.
        metric: the key of a result to rank by.
        mode: ``"max"`` or ``"min"``.
        max_t: reports of a full trial, at least 1.

    Raises:
        SweepError: the scheduler is neither a known name nor a Ray scheduler that works here.
    """
    if not isinstance(sweep.scheduler, str):
        return adopt(check_given(sweep), metric, mode)
    return BUILDERS[one_of("scheduler", sweep.scheduler, BUILDERS)](sweep, metric, mode, max_t)
