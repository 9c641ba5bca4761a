"""What a trial takes from its donor and what it keeps, and how far hyperparameters move; without actors."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler
from simulated import METRIC, SPACE, Simulation, declare, make_trial

from sweeps import choice, loguniform, quniform, randint, uniform
from sweeps.search.checks import SweepError
from sweeps.search.domains import Domain
from sweeps.search.mutation import mutable, nearest
from sweeps.search.population import DONOR
from sweeps.search.schedulers import make_scheduler


@pytest.mark.parametrize(
    ("domain", "value", "expected"),
    [
        (uniform(0.0, 0.1), 0.12, 0.1),
        (uniform(0.0, 0.1), -1.0, 0.0),
        (loguniform(1e-4, 1e-1), 8e-5, 1e-4),
        (loguniform(1e-4, 1e-1), 0.012, 0.012),
        (quniform(0.1, 0.5, 0.1), 0.36, 0.4),
        (quniform(0.1, 0.5, 0.1), 0.31, 0.3),
        (quniform(0.1, 0.5, 0.1), 7.0, 0.5),
        (randint(1, 10), 10.8, 9),
        (randint(1, 10), 0.8, 1),
        (choice([None, 1.0]), None, None),
        (choice([0.5, 1.0]), 0.5, 0.5),
    ],
)
def test_the_nearest_value_by_hand(domain: Domain, value: Any, expected: Any) -> None:
    assert nearest(domain, value) == expected
    assert type(nearest(domain, value)) is type(expected)


@given(
    st.sampled_from([uniform(-1.0, 2.0), loguniform(1e-5, 3.0), quniform(0.0, 1.0, 0.25), randint(-3, 8)]),
    st.floats(0, 1, exclude_max=True),
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6),
)
def test_the_nearest_value_lies_in_the_domain(domain: Domain, unit: float, value: float) -> None:
    drawn = domain.draw(unit)
    assert nearest(domain, drawn) == drawn
    found = nearest(domain, value)
    assert nearest(domain, found) == found
    assert domain.draw(0.0) <= found <= domain.draw(1.0 - 1e-12) + 1e-9  # type: ignore[operator]


def test_only_what_the_loop_reads_at_every_step_may_change() -> None:
    space = SPACE | {"batch_size": choice([32, 64]), "weight_decay": 0.1, "max_grad_norm": choice([None, 1.0])}
    assert list(mutable(space)) == ["learning_rate", "max_grad_norm"]
    with pytest.raises(SweepError, match=r"space: must give pbt a domain of .*, got \['weight_decay'\]"):
        mutable({"weight_decay": 0.1})


def population(space: Any = SPACE, seed: int = 0, **fields: Any) -> TrialScheduler:
    return make_scheduler(declare(scheduler="pbt", space=space, seed=seed, **fields), METRIC, "max", 10)


def report(scheduler: TrialScheduler, trials: list[Trial], values: list[float]) -> list[str]:
    """All trials run, and report once in their order; what is decided on each."""
    run = Simulation(scheduler, [], 10)
    run.trials = trials
    for trial in trials:
        scheduler.on_trial_add(run, trial)
        trial.status = Trial.RUNNING
    results = [{"training_iteration": 1, METRIC: value} for value in values]
    return [str(scheduler.on_trial_result(run, t, r)) for t, r in zip(trials, results, strict=True)]


def exploited(scheduler: TrialScheduler, **config: Any) -> Trial:
    """A trial that fell behind one of the given configuration."""
    trials = [make_trial(index, **config | {"width": 8 if index == 1 else 4}) for index in range(3)]
    # A trial is saved for others to go on from when it is found to be among the best, so it needs company.
    assert report(scheduler, trials, [0.5, 0.9, 0.1]) == [TrialScheduler.CONTINUE] * 2 + [TrialScheduler.NOOP]
    assert trials[1].config["spec"]["config"] == config | {"width": 8}
    assert DONOR not in trials[1].config
    return trials[2]


def test_the_worst_goes_on_from_the_best_and_keeps_its_name() -> None:
    worst = exploited(population(), learning_rate=0.01)
    assert worst.status == Trial.PAUSED
    assert worst.checkpoint == "search-0001-fp32 at 1"  # Tune restores it before the first step
    assert worst.config[DONOR] == "search-0001-fp32"
    spec = worst.config["spec"]
    assert {name: spec[name] for name in ("trial_id", "precision", "seed")} == {
        "trial_id": "search-0002-fp32",
        "precision": "fp32",
        "seed": 2,
    }
    assert spec["config"]["width"] == 8  # as the weights have it
    assert spec["config"]["learning_rate"] != 0.01
    assert list(spec["config"]) == ["learning_rate", "width"]


def test_changes_stay_in_the_domain_and_derive_from_the_seed() -> None:
    bounds = (0.0099, 0.0101)
    space = {"learning_rate": loguniform(*bounds), "max_grad_norm": choice([None, 1.0]), "width": choice([4, 8])}
    found = []
    for seed in range(20):
        drawn = []
        for others in (1, 2):
            random.seed(others)
            before = random.getstate()
            drawn.append(exploited(population(space, seed), learning_rate=0.01, max_grad_norm=None))
            assert random.getstate() == before  # others' randomness is left alone
        first, again = (trial.config["spec"]["config"] for trial in drawn)
        assert first == again
        assert bounds[0] <= first["learning_rate"] <= bounds[1]
        assert first["max_grad_norm"] in (None, 1.0)
        found.append((first["learning_rate"], first["max_grad_norm"]))
    assert set(bounds) <= {rate for rate, _ in found}  # x 0.8 and x 1.2
    assert len({rate for rate, _ in found}) > 2  # drawn anew
    assert {norm for _, norm in found} == {None, 1.0}


def test_a_trial_that_reports_nan_goes_on_from_the_best() -> None:
    trials = [make_trial(index, learning_rate=0.01, width=4) for index in range(3)]
    report(population(), trials, [0.5, 0.6, float("nan")])
    assert trials[2].config[DONOR] == "search-0001-fp32"


def test_a_look_at_the_population_comes_every_grace_period() -> None:
    trials = [make_trial(index, learning_rate=0.01, width=4) for index in range(3)]
    assert report(population(grace_period=2), trials, [0.5, 0.9, 0.1]) == [TrialScheduler.CONTINUE] * 3


def test_precisions_are_populations_of_their_own() -> None:
    trials = [make_trial(0, learning_rate=0.01), make_trial(1, learning_rate=0.01)]
    trials.append(make_trial(0, "bf16-mixed", learning_rate=0.01))
    assert report(population(), trials, [0.5, 0.9, 0.1]) == [TrialScheduler.CONTINUE] * 3


def test_an_object_of_rays_finds_the_hyperparameters_and_leaves_the_names() -> None:
    """Its own function sees the hyperparameters by their names; what it changes reaches the trial."""
    given = PopulationBasedTraining(
        "training_iteration",
        perturbation_interval=1,
        hyperparam_mutations={"learning_rate": [0.02]},
        custom_explore_fn=lambda config: config | {"width": config["width"] * 2},
        log_config=False,
    )
    worst = exploited(make_scheduler(declare(scheduler=given), METRIC, "max", 10), learning_rate=0.01)
    assert worst.config["spec"] == {
        "trial_id": "search-0002-fp32",
        "precision": "fp32",
        "seed": 2,
        "config": {"learning_rate": 0.02, "width": 16},
    }
