"""Which scheduler a sweep gets, and which it may not have."""

from typing import Any

import pytest
from ray.tune import PlacementGroupFactory
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandForBOHB,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    ResourceChangingScheduler,
    TrialScheduler,
)
from simulated import declare

from sweeps import choice
from sweeps.engine.sweep import SCHEDULERS
from sweeps.search.asha import Asha
from sweeps.search.checks import SweepError
from sweeps.search.per_precision import PerPrecision
from sweeps.search.population import ShieldedPopulation
from sweeps.search.schedulers import BUILDERS, make_scheduler
from sweeps.search.shield import Shielded

MUTATIONS = {"learning_rate": [1e-3, 1e-2]}


def test_every_name_that_a_sweep_accepts_can_be_built() -> None:
    assert set(BUILDERS) == set(SCHEDULERS)
    for name in SCHEDULERS:
        made = make_scheduler(declare(scheduler=name), "val_accuracy", "max", 10)
        assert isinstance(made, Asha if name == "asha" else FIFOScheduler if name == "fifo" else PerPrecision)


def test_asha_gets_the_sweeps_settings() -> None:
    made = make_scheduler(declare(grace_period=2, reduction_factor=4, max_epochs=64), "val_loss", "min", 64)
    assert isinstance(made, Asha)
    assert made.rule.rungs == [2, 8, 32]
    assert made.rule.sign == -1
    assert type(make_scheduler(declare(scheduler="fifo"), "val_loss", "min", 10)) is FIFOScheduler


@pytest.mark.parametrize("build", [ASHAScheduler, HyperBandScheduler, MedianStoppingRule, FIFOScheduler])
def test_an_object_is_told_what_to_rank_by(build: Any) -> None:
    options = {"time_attr": "training_iteration"} if build is not FIFOScheduler else {}
    scheduler = build(**options)
    made = make_scheduler(declare(scheduler=scheduler), "val_loss", "min", 10)
    assert type(made) is Shielded
    assert made.scheduler is scheduler
    assert made.metric == scheduler.metric == "val_loss"
    assert getattr(scheduler, "_mode", "min") == "min"


@pytest.mark.parametrize(
    ("own", "ranks_by"),
    [
        ({"metric": "val_f1", "mode": "max"}, ("val_f1", "max")),
        ({"metric": "val_f1"}, ("val_f1", "max")),
        ({"mode": "max"}, ("val_f1", "max")),
        ({"metric": "val_loss", "mode": "min"}, ("val_loss", "min")),
    ],
)
def test_an_object_keeps_what_it_was_made_with(own: dict[str, str], ranks_by: tuple[str, str]) -> None:
    scheduler = ASHAScheduler(**own)
    made = make_scheduler(declare(scheduler=scheduler), "val_f1", "max", 10)
    assert (scheduler._metric, scheduler._mode) == ranks_by
    assert made.metric == ranks_by[0]
    assert scheduler._metric_op == (1.0 if ranks_by[1] == "max" else -1.0)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"metric": "val_acc", "mode": "max"}, "scheduler.metric: must be val_f1 or val_loss, got 'val_acc'; leave"),
        ({"metric": "val_loss"}, "scheduler.mode: must be given for val_loss, got None; say max or min"),
    ],
)
def test_an_object_that_ranks_by_what_may_be_missing_is_refused(own: dict[str, str], message: str) -> None:
    with pytest.raises(SweepError, match=message):
        make_scheduler(declare(scheduler=ASHAScheduler(**own)), "val_f1", "max", 10)


class Lookalike:
    def on_trial_result(self) -> None: ...


def unfit(name: str) -> TrialScheduler:
    if name == "BOHB":
        return HyperBandForBOHB()
    return ResourceChangingScheduler(None, lambda *args, **kwargs: PlacementGroupFactory([{"CPU": 1}]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lookalike(), "scheduler: must be a name or a Ray Tune scheduler, got <"),
        (lambda: unfit("BOHB"), "scheduler: must be one that works in a sweep, got 'HyperBandForBOHB'; it works with"),
        (lambda: unfit("resources"), "got 'ResourceChangingScheduler'; it needs a new process for each trial"),
        (lambda: ASHAScheduler(time_attr="epoch"), "scheduler.time_attr: must be a known name, got 'epoch'; valid: tr"),
        (
            lambda: PopulationBasedTraining(hyperparam_mutations={"learning_rat": [1, 2]}),
            "scheduler.hyperparam_mutations: must be a known name, got 'learning_rat'; did you mean 'learning_rate'",
        ),
    ],
)
def test_objects_that_do_not_fit_are_refused_where_they_are_declared(make: Any, message: str) -> None:
    with pytest.raises(SweepError) as refused:
        declare(scheduler=make())
    assert message in str(refused.value)


def test_an_object_of_population_based_training_keeps_trials_apart() -> None:
    made = make_scheduler(declare(scheduler=PopulationBasedTraining(hyperparam_mutations=MUTATIONS)), "m", "max", 10)
    assert type(made) is ShieldedPopulation


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scheduler": "hyperbnd"}, "scheduler: must be a known name, got 'hyperbnd'; did you mean 'hyperband'? valid"),
        ({"scheduler": "pbt", "space": {"learning_rate": 0.1}}, "space: must give pbt a domain of learning_rate, weig"),
        ({"scheduler": "pbt", "space": {"width": choice([4, 8])}}, "space: must give pbt a domain of learning_rate, "),
        (
            {"scheduler": "pbt", "searcher": "tpe"},
            "scheduler: must leave configurations as a searcher that follows resu",
        ),
        ({"scheduler": "median", "grace_period": 11}, "grace_period: must be at most the 10 reports of a run, got 11"),
        ({"scheduler": "pbt", "grace_period": 11}, "grace_period: must be at most the 10 reports of a run, got 11"),
    ],
)
def test_names_are_refused_with_what_they_lack(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SweepError) as refused:
        declare(**fields)
    assert str(refused.value).startswith(message)


def test_population_based_training_and_searchers_that_follow_results_exclude_each_other() -> None:
    scheduler = PopulationBasedTraining(hyperparam_mutations=MUTATIONS)
    with pytest.raises(SweepError, match="got 'PopulationBasedTraining'; use another one"):
        declare(scheduler=scheduler, searcher="tpe")
    assert declare(scheduler=scheduler, searcher="sobol").scheduler is scheduler


def test_hyperband_does_without_a_grace_period() -> None:
    assert declare(scheduler="hyperband", grace_period=11).grace_period == 11
