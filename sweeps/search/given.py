"""Scheduler objects of Ray's in a sweep script: which of them work here, and what they have to be told."""

from typing import TYPE_CHECKING

from ray.tune.schedulers import (
    HyperBandForBOHB,
    PopulationBasedTraining,
    PopulationBasedTrainingReplay,
    ResourceChangingScheduler,
    TrialScheduler,
)

from sweeps.search.asha import TIME
from sweeps.search.checks import one_of, refuse
from sweeps.search.mutation import check_planned
from sweeps.search.population import ShieldedPopulation
from sweeps.search.shield import Shielded

if TYPE_CHECKING:
    from sweeps.engine.sweep import Sweep

UNFIT: dict[type, str] = {
    HyperBandForBOHB: "it works with Ray's TuneBOHB alone; use HyperBandScheduler",
    PopulationBasedTrainingReplay: "it trains a single trial; give its configuration as points",
    ResourceChangingScheduler: "it needs a new process for each trial; set cpus_per_trial and gpus_per_trial",
}
"""Schedulers that cannot work here, each with the reason and the remedy."""

TIMES = (TIME, "time_total_s")
"""What a scheduler may measure a trial's age by: reports, or seconds."""


def check_given(sweep: "Sweep") -> TrialScheduler:
    """The scheduler object of a sweep, where it is one of Ray's that works here.

    Raises:
        SweepError: it is no scheduler, an unfit one, or measures or changes what trials do not have.
    """
    scheduler = sweep.scheduler
    if not isinstance(scheduler, TrialScheduler):
        refuse("scheduler", "must be a name or a Ray Tune scheduler", scheduler, "use a ray.tune.schedulers object")
    for unfit, remedy in UNFIT.items():
        if isinstance(scheduler, unfit):
            refuse("scheduler", "must be one that works in a sweep", type(scheduler).__name__, remedy)
    one_of("scheduler.time_attr", getattr(scheduler, "_time_attr", TIME), TIMES)
    if isinstance(scheduler, PopulationBasedTraining):
        for name in scheduler._hyperparam_mutations:
            one_of("scheduler.hyperparam_mutations", name, sweep.space)
        check_planned(sweep)
    return scheduler


def adopt(scheduler: TrialScheduler, metric: str, mode: str) -> Shielded:
    """The scheduler behind a shield, told what to rank by where it does not know.

    Args:
        scheduler: one that :func:`check_given` let pass.
        metric, mode: the sweep's own.

    Raises:
        SweepError: it ranks by a metric of its own that the trials may lack, or does not say which way is better.
    """
    own_metric, own_mode = scheduler.metric, getattr(scheduler, "_mode", None)
    if own_metric not in (None, metric, "val_loss"):
        refuse("scheduler.metric", f"must be {metric} or val_loss", own_metric, "leave it out: the sweep's is used")
    if own_metric not in (None, metric) and own_mode is None:
        refuse("scheduler.mode", f"must be given for {own_metric}", None, "say max or min")
    scheduler.set_search_properties(None if own_metric else metric, None if own_mode else mode)
    if isinstance(scheduler, PopulationBasedTraining):
        return ShieldedPopulation(scheduler, own_metric or metric, own_mode or mode)
    return Shielded(scheduler, own_metric or metric, own_mode or mode)
