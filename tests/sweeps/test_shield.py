"""Ray's schedulers behind the shield, driven without actors: whatever befalls the trials, all of them end."""

import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from simulated import METRIC, Fault, Simulation, declare, make_trial

from sweeps.search.per_precision import PerPrecision
from sweeps.search.schedulers import make_scheduler
from sweeps.search.shield import WORST, Shielded

CONFIG = {"learning_rate": 0.01, "width": 4}
ENDS = {"dies": "lost", "dies twice": "lost", "nan": "failed", "fails": "failed"}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("ray.tune").setLevel(logging.NOTSET)


def draw_faults(num_trials: int, max_t: int, seed: int) -> dict[int, Fault]:
    drawn = random.Random(seed)
    hit = [index for index in range(num_trials) if drawn.random() < 0.4]
    return {index: (drawn.choice(list(ENDS)), drawn.randint(1, max_t)) for index in hit}


def simulate(make: Callable[[int, int], TrialScheduler], with_faults: bool) -> Counter[str]:
    """Every combination of 1 to 12 trials of two precisions with 1 to 12 reports; how the trials ended."""
    ends: Counter[str] = Counter()
    for num_trials in range(1, 13):
        for max_t in range(1, 13):
            for factor, waiting in ((2, 16), (3, 1)):
                trials = [make_trial(i, ("fp32", "bf16-mixed")[i % 3 == 0], **CONFIG) for i in range(num_trials)]
                faults = draw_faults(num_trials, max_t, seed=num_trials * max_t) if with_faults else {}
                run = Simulation(make(max_t, factor), trials, max_t, faults, slots=factor, seed=max_t, waiting=waiting)
                ended = run.run()
                assert set(ended) == set(trials)
                for index, (kind, _) in faults.items():
                    # A trial that goes on from another's weights may jump over the report of its fault.
                    assert ended[trials[index]] in (ENDS[kind], "pruned", "completed")
                ends.update(ended.values())
                ends["paused"] += run.num_pauses
    return ends


def named(name: str) -> Callable[[int, int], TrialScheduler]:
    def make(max_t: int, factor: int) -> TrialScheduler:
        return make_scheduler(declare(scheduler=name, reduction_factor=factor, max_epochs=12), METRIC, "max", max_t)

    return make


def given(build: Callable[..., TrialScheduler], **options: Any) -> Callable[[int, int], TrialScheduler]:
    def make(max_t: int, factor: int) -> TrialScheduler:
        more = {"max_t": max_t, "reduction_factor": factor} if "time_attr" not in options else {}
        return Shielded(build(metric=METRIC, mode="max", **more, **options), METRIC, "max")

    return make


def in_step(max_t: int, factor: int) -> TrialScheduler:
    scheduler = PopulationBasedTraining(
        "training_iteration",
        perturbation_interval=1,
        hyperparam_mutations={"learning_rate": tune.loguniform(1e-4, 1e-1)},
        synch=True,
        log_config=False,
    )
    return make_scheduler(declare(scheduler=scheduler), METRIC, "max", max_t)


MAKERS = {
    "hyperband": named("hyperband"),
    "median": named("median"),
    "HyperBandScheduler": given(HyperBandScheduler),
    "HyperBandScheduler to the end": given(HyperBandScheduler, stop_last_trials=False),
    "ASHAScheduler": given(ASHAScheduler),
    "pbt": named("pbt"),
    "PopulationBasedTraining in step": in_step,
    "MedianStoppingRule": given(MedianStoppingRule, time_attr="training_iteration", grace_period=1, hard_stop=False),
}


@pytest.mark.parametrize("with_faults", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_every_search_ends(name: str, with_faults: bool) -> None:
    ends = simulate(MAKERS[name], with_faults)
    assert ends["completed"]
    assert bool(ends["pruned"]) is ("opulation" not in name and name not in ("pbt", "MedianStoppingRule"))
    assert bool(ends["paused"]) is (name not in ("median", "ASHAScheduler"))  # a run without company goes on
    if with_faults:
        assert ends["lost"]
        assert ends["failed"]


class Recording(FIFOScheduler):
    """Notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[tuple[str, Any]] = []
        self.seen: list[list[Trial]] = []

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Any) -> str:
        self.shown.append(("result", result.get(METRIC)))
        assert tune_controller.get_live_trials() == set(tune_controller.get_trials())
        self.seen.append(tune_controller.get_trials())
        return TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Any) -> None:
        self.shown.append(("complete", result.get(METRIC)))

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self.shown.append(("remove", None))


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("metrics", [{}, {METRIC: None}, {METRIC: math.nan}, {METRIC: math.inf}, {METRIC: -math.inf}])
def test_what_is_missing_or_not_finite_is_shown_as_the_worst(mode: str, metrics: dict[str, Any]) -> None:
    inner, trial = Recording(), make_trial(0)
    shield = Shielded(inner, METRIC, mode)
    run = Simulation(shield, [], 1)
    shield.on_trial_add(run, trial)
    result = {"training_iteration": 1, **metrics}
    shield.on_trial_result(run, trial, result)
    shield.on_trial_complete(run, trial, result)
    worst = -WORST if mode == "max" else WORST
    assert inner.shown == [("result", worst), ("complete", worst)]
    assert result == {"training_iteration": 1, **metrics}


def test_what_is_known_is_shown_as_it_is_and_no_report_is_a_removal() -> None:
    inner, trial = Recording(), make_trial(0)
    shield = Shielded(inner, METRIC, "max")
    run = Simulation(shield, [], 1)
    shield.on_trial_add(run, trial)
    shield.on_trial_result(run, trial, {"training_iteration": 1, METRIC: 0.5})
    shield.on_trial_complete(run, trial, {})
    assert inner.shown == [("result", 0.5), ("remove", None)]


def test_a_scheduler_sees_its_own_living_trials() -> None:
    """Tune keeps a trial whose process died among the living."""
    schedulers: dict[str, Recording] = {}

    def build(precision: str) -> Shielded:
        schedulers[precision] = Recording()
        return Shielded(schedulers[precision], METRIC, "max")

    scheduler = PerPrecision(build, METRIC)
    trials = [make_trial(0), make_trial(1), make_trial(2, "tf32"), make_trial(3)]
    run = Simulation(scheduler, [], 1)
    for trial in trials:
        scheduler.on_trial_add(run, trial)
    trials[1].status = Trial.ERROR
    scheduler.on_trial_result(run, trials[0], {"training_iteration": 1, METRIC: 0.5})
    scheduler.on_trial_result(run, trials[2], {"training_iteration": 1, METRIC: 0.5})
    assert schedulers["fp32"].seen == [[trials[0], trials[3]]]
    assert schedulers["tf32"].seen == [[trials[2]]]
    assert scheduler.debug_string().splitlines() == [f"{name}: {Recording().debug_string()}" for name in schedulers]
    assert scheduler.set_search_properties(METRIC, None)
    assert not scheduler.set_search_properties("val_loss", "min")


def test_the_precision_with_the_fewest_running_comes_first() -> None:
    scheduler = PerPrecision(lambda precision: Shielded(FIFOScheduler(), METRIC, "max"), METRIC)
    trials = [make_trial(index, precision) for precision in ("fp32", "bf16-mixed") for index in range(3)]
    run = Simulation(scheduler, [], 1)
    run.trials = trials
    for trial in trials:
        scheduler.on_trial_add(run, trial)
    order = []
    for _ in trials:
        chosen = scheduler.choose_trial_to_run(run)
        assert chosen is scheduler.choose_trial_to_run(run)  # asking changes nothing
        assert chosen is not None
        chosen.status = Trial.RUNNING
        order.append(chosen.config["spec"]["precision"])
    assert order == ["fp32", "bf16-mixed"] * 3
    assert scheduler.choose_trial_to_run(run) is None


def test_where_all_wait_and_none_is_let_go_on_the_first_goes_on() -> None:
    class Forgetful(FIFOScheduler):
        def choose_trial_to_run(self, tune_controller: Any) -> None:
            return None

    scheduler = Shielded(Forgetful(), METRIC, "max")
    trials = [make_trial(index) for index in range(3)]
    run = Simulation(scheduler, [], 1)
    for trial, status in zip(trials, (Trial.TERMINATED, Trial.PAUSED, Trial.RUNNING), strict=True):
        scheduler.on_trial_add(run, trial)
        trial.status = status
    assert scheduler.choose_trial_to_run(run) is None  # one runs: its report may wake the other
    trials[2].status = Trial.PAUSED
    assert scheduler.choose_trial_to_run(run) is trials[1]
    trials[1].status = trials[2].status = Trial.TERMINATED
    assert scheduler.choose_trial_to_run(run) is None


def test_no_precision_is_judged_by_anothers_curve() -> None:
    """The worst of the better precision goes, not the best of the worse one."""
    for name in ("median", "hyperband"):
        scheduler = named(name)(2, 2)
        trials = [make_trial(index, precision) for precision in ("fp32", "bf16-mixed") for index in range(4)]
        run = Simulation(scheduler, [], 2)
        run.trials = trials
        for trial in trials:
            scheduler.on_trial_add(run, trial)
        decisions = {}
        for trial in trials:
            trial.status = Trial.RUNNING
            base = 0.9 if trial.config["spec"]["precision"] == "fp32" else 0.1
            value = base - 0.01 * trial.config["spec"]["seed"]
            decision = scheduler.on_trial_result(run, trial, {"training_iteration": 1, METRIC: value})
            trial.status = Trial.PAUSED if decision == TrialScheduler.PAUSE else Trial.RUNNING
            decisions[trial.config["spec"]["trial_id"]] = decision
        fp32, bf16 = ([decisions[f"search-{i:04d}-{name}"] for i in range(4)] for name in ("fp32", "bf16-mixed"))
        assert fp32 == bf16
        assert fp32[-1] == TrialScheduler.STOP
        assert fp32[0] == TrialScheduler.CONTINUE


def test_the_best_of_hyperband_run_to_their_end() -> None:
    """Brackets of 2 and 3 trials; the second one halves after 1 report and would end with Ray's after 3 of 5."""
    trials = [make_trial(index) for index in range(5)]
    run = Simulation(named("hyperband")(5, 3), trials, 5)
    assert [run.run()[trial] for trial in trials[:2]] == ["completed"] * 2
    assert Counter(run.ended[trial] for trial in trials[2:]) == {"pruned": 2, "completed": 1}
    assert {run.reports[trial] for trial in trials if run.ended[trial] == "pruned"} == {1}


def test_a_bracket_of_hyperband_that_loses_a_trial_goes_on_while_others_run() -> None:
    """Ray's own would leave the paused one until nothing runs any more."""
    scheduler = named("hyperband")(4, 2)  # brackets of 3, 3 and 4 trials; the last one halves after 1 and 2 reports
    trials = [make_trial(index) for index in range(10)]
    run = Simulation(scheduler, [], 4)
    run.trials = trials
    for trial in trials:
        scheduler.on_trial_add(run, trial)
        trial.status = Trial.RUNNING

    def report(trial: Trial, t: int, value: float) -> str:
        decision = scheduler.on_trial_result(run, trial, {"training_iteration": t, METRIC: value})
        trial.status = Trial.PAUSED if decision == TrialScheduler.PAUSE else trial.status
        return str(decision)

    one, other = trials[8], trials[9]
    for trial, value in zip(trials[6:], (0.1, 0.2, 0.8, 0.9), strict=True):
        report(trial, 1, value)
    assert [trial.status for trial in trials[6:]] == ["TERMINATED", "TERMINATED", "PAUSED", "RUNNING"]
    assert scheduler.choose_trial_to_run(run) is one
    one.status = Trial.RUNNING
    assert report(one, 2, 0.8) == TrialScheduler.PAUSE
    assert scheduler.choose_trial_to_run(run) is None
    other.status = Trial.ERROR
    scheduler.on_trial_error(run, other)
    assert scheduler.choose_trial_to_run(run) is one
