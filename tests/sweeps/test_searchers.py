"""Searches driven by hand, as Ray Tune drives them, with real searchers and made-up results."""

import json
import math
import sys
from collections import deque
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState
from ray.tune.search import ConcurrencyLimiter, Repeater, Searcher
from ray.tune.search.optuna import OptunaSearch

from sweeps import Sweep, SweepError, choice, loguniform, quniform, uniform
from sweeps.engine.rows import started
from sweeps.search.plan import PlannedTrial, plan_search, preview, search_seed
from sweeps.search.searchers import Suggested, make_search
from sweeps.search.suggester import EXHAUSTED
from trainables.spec import Checkpoints

RANKS = Checkpoints("unused", 0, "val_accuracy", "max")
PRECISIONS = ["fp32", "bf16-mixed"]
SPACE = {
    "x": uniform(0, 1),
    "y": loguniform(1e-4, 1),
    "z": quniform(0.05, 0.25, 0.1),
    "w": choice([1, None, "a"]),
    "k": 5,
}

Evaluate = Callable[[PlannedTrial], dict[str, Any] | None]


def declare(**fields: Any) -> Sweep:
    known = {"name": "s", "task": "tasks:build", "space": SPACE, "searcher": "tpe", "num_trials": 12}
    return Sweep(**{**known, "precisions": tuple(PRECISIONS)} | fields)


def make(sweep: Sweep, past: Mapping[str, Any] | None = None) -> Any:
    return make_search(sweep, PRECISIONS, RANKS, past or {}, slots=2)


def result(value: float, status: str = "completed") -> dict[str, Any]:
    """What Tune passes on of a report."""
    numbers = {"training_iteration": 1, "val_accuracy": value, "val_loss": -value}
    return {**numbers, "report/status": status, "date": "today", "done": True}


def own_space(**highest: float) -> dict[str, FloatDistribution]:
    return {name: FloatDistribution(0, high) for name, high in highest.items()}


def drive(search: Any, evaluate: Evaluate, slots: int = 2, most: int = 10**6, limit: int = 1) -> list[PlannedTrial]:
    """Runs a search to its end, or until so many trials have ended: ``slots`` at once, the first to begin first.

    ``limit``: how often a search that has nothing running may ask for patience.
    """
    ended: list[PlannedTrial] = []
    running: deque[str] = deque()
    trials: dict[str, PlannedTrial] = {}
    number = 0
    while len(ended) < most:
        while len(running) < slots:
            number += 1
            suggestion = search.suggest(f"tune-{number}")
            if not isinstance(suggestion, dict):
                break
            trials[f"tune-{number}"] = search.trials[suggestion["spec"]["trial_id"]]
            running.append(f"tune-{number}")
            search.started(SimpleNamespace(trial_id=f"tune-{number}", status="RUNNING"))
        if not running:
            waits = [search.suggest("idle") for _ in range(limit)]
            assert waits[-1] == EXHAUSTED
            break
        name = running.popleft()
        last = evaluate(trials[name])
        if last is not None and last["report/status"] == "completed":
            search.on_trial_result(name, last)
        search.on_trial_complete(name, result=last, error=last is None)
        ended.append(trials[name])
    return ended


def studies(search: Suggested) -> dict[str, Any]:
    return {name: suggester._searcher._ot_study for name, suggester in search._suggesters.items()}


def distance(trial: PlannedTrial) -> dict[str, Any]:
    """The best x of fp32 is 0.1, that of bf16-mixed is 0.9."""
    best = 0.1 if trial.precision == "fp32" else 0.9
    return result(-abs(trial.config["x"] - best))


def test_tpe_follows_the_results_of_each_precision_alone() -> None:
    ended = drive(make(declare(space={"x": uniform(0, 1)}, num_trials=80)), distance)
    assert [trial.trial_id for trial in ended[:4]] == [
        *("search-0000-fp32", "search-0000-bf16-mixed"),
        *("search-0001-fp32", "search-0001-bf16-mixed"),
    ]
    by_precision = {name: [trial for trial in ended if trial.precision == name] for name in PRECISIONS}
    for precision, best in (("fp32", 0.1), ("bf16-mixed", 0.9)):
        assert [trial.index for trial in by_precision[precision]] == list(range(40))
        early, late = (
            [abs(trial.config["x"] - best) for trial in part]
            for part in (by_precision[precision][:10], by_precision[precision][20:])
        )
        assert sum(late) / len(late) < 0.5 * sum(early) / len(early)
    for one, other in zip(*(trials[:10] for trials in by_precision.values()), strict=True):
        assert (one.config, one.seed, one.block_id) == (other.config, other.seed, other.block_id)
        assert one.seed == search_seed(0, one.index)
    assert by_precision["fp32"][30].config != by_precision["bf16-mixed"][30].config


def test_tpe_starts_to_follow_results_after_a_quarter_of_a_precisions_trials() -> None:
    ended = drive(make(declare(space={"x": uniform(0, 1)}, num_trials=32)), distance, slots=1)
    pairs = zip(*([t.config for t in ended if t.precision == name] for name in PRECISIONS), strict=True)
    assert [one == other for one, other in pairs] == [True] * 4 + [False] * 12


def test_the_same_seed_gives_the_same_search() -> None:
    here, again, there = (drive(make(declare(seed=seed)), distance) for seed in (2**33, 2**33, 2**33 + 1))
    assert here == again
    assert not {trial.config_id for trial in here} & {trial.config_id for trial in there}


def test_suggestions_are_values_of_the_space_with_its_constants() -> None:
    sweep = declare()
    for trial in drive(make(sweep), distance):
        assert list(trial.config) == list(SPACE)
        assert trial.config["k"] == 5
        assert trial.config["z"] in (0.05, 0.15, 0.25)
        assert trial.config["w"] in (1, None, "a")
        assert json.loads(json.dumps(trial.config)) == trial.config


@pytest.mark.parametrize("num_trials", [1, 2, 5])
def test_trials_are_shared_out_as_in_a_plan(num_trials: int) -> None:
    search = make(declare(num_trials=num_trials))
    assert search.total == num_trials
    ended = drive(search, distance)
    planned = plan_search(declare(searcher="random", num_trials=num_trials), PRECISIONS)
    assert [trial.trial_id for trial in ended] == [trial.trial_id for trial in planned]
    assert {trial.trial_id: trial for trial in ended} == search.trials


def test_failed_and_nan_trials_poison_nothing() -> None:
    def faulty(trial: PlannedTrial) -> dict[str, Any] | None:
        faults = [
            result(math.nan),
            result(math.inf),
            None,
            result(0.9, "diverged"),
            {"report/status": "out_of_memory", "training_iteration": 1},
            result(0.1, "running"),
        ]
        return faults[trial.index] if trial.index < len(faults) else distance(trial)

    search = make(declare(num_trials=24))
    ended = drive(search, faulty)
    assert len(ended) == 24
    assert search.error is None
    for study in studies(search).values():
        assert [trial.state for trial in study.trials[:6]] == [TrialState.FAIL] * 5 + [TrialState.COMPLETE]
        assert [trial.value for trial in study.trials[:6]] == [None] * 5 + [0.1]
        assert {trial.state for trial in study.trials[6:]} == {TrialState.COMPLETE}
        assert study.direction.name == "MAXIMIZE"


def test_trials_that_all_fail_still_come_to_an_end() -> None:
    assert len(drive(make(declare()), lambda trial: None)) == 12


def rows_of(search: Any, ended: list[PlannedTrial], evaluate: Evaluate) -> dict[str, dict[str, Any]]:
    """The journal's rows of a search that was interrupted."""
    rows = {name: started(trial, "search", 1, 0) for name, trial in search.trials.items()}
    for trial in ended:
        last = evaluate(trial)
        status = "errored" if last is None else "completed" if last["report/status"] == "completed" else "pruned"
        rows[trial.trial_id] |= {"status": status, **(last or {})}
    return json.loads(json.dumps(rows))


@pytest.mark.parametrize("num_ended", [0, 3, 7, 14])
@pytest.mark.parametrize("searcher", ["tpe", "object", "limited", "own space"])
def test_an_interrupted_search_goes_on(searcher: str, num_ended: int) -> None:
    def evaluate(trial: PlannedTrial) -> dict[str, Any] | None:
        return None if trial.index == 1 else distance(trial)

    own = own_space(x=1.0) if searcher == "own space" else None
    given: Any = OptunaSearch(space=own, metric="val_accuracy", mode="max", sampler=TPESampler(seed=1))
    given = ConcurrencyLimiter(given, max_concurrent=2) if searcher == "limited" else given
    space = {"k": 5} if own else {"x": uniform(0, 1), "k": 5}
    sweep = declare(space=space, num_trials=20, searcher=searcher if searcher == "tpe" else given)
    undisturbed = drive(make(sweep), evaluate)
    first = make(sweep)
    ended = drive(first, evaluate, most=num_ended)
    unfinished = [trial for name, trial in first.trials.items() if trial not in ended]
    assert 0 <= len(unfinished) <= 2
    second = make(sweep, rows_of(first, ended, evaluate))
    assert second.total == 20 - num_ended
    more = drive(second, evaluate)
    assert more[: len(unfinished)] == unfinished
    assert sorted(trial.trial_id for trial in ended + more) == sorted(trial.trial_id for trial in undisturbed)
    tried = [(trial.precision, trial.config_id) for trial in ended + more]
    assert len(set(tried)) == len(tried) == 20  # nothing is tried twice, though each searcher starts anew
    if num_ended == 3:  # within the random start, the search goes on as if nothing had happened
        assert (ended + more)[:6] == undisturbed[:6]
    if searcher != "limited":
        values = {
            name: {t.value for t in study.trials if t.value is not None} for name, study in studies(second).items()
        }
        for trial in [*ended, *more]:
            if trial.index != 1:
                assert distance(trial)["val_accuracy"] in values[trial.precision]


class Counting(Searcher):
    """Suggests 0, 1, 2, ... ends after some of them, and keeps what it is told."""

    def __init__(self, last: int = 10**6) -> None:
        super().__init__()
        self.next, self.last = 0, last
        self.told: dict[str, tuple[Any, bool]] = {}
        self.asked: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        if self.next > self.last:
            return Searcher.FINISHED
        self.asked[trial_id] = self.next
        self.next += 1
        return {"n": self.asked[trial_id]}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.told[trial_id] = (result and result["val_accuracy"], error)


def test_a_searcher_that_cannot_be_told_of_others_trials_hears_of_them_when_it_repeats_itself() -> None:
    def evaluate(trial: PlannedTrial) -> dict[str, Any]:
        return result(float(trial.config["n"]))

    sweep = declare(space={}, searcher=Counting(), num_trials=12)
    first = make(sweep)
    ended = drive(first, evaluate, most=6)
    second = make(sweep, rows_of(first, ended, evaluate))
    more = drive(second, evaluate)
    for precision, suggester in second._suggesters.items():
        assert [t.config["n"] for t in ended + more if t.precision == precision] == list(range(6))
        searcher = suggester._searcher
        heard = {searcher.asked[name]: told for name, told in searcher.told.items()}
        assert [heard[n] for n in (0, 1, 2, 4, 5)] == [(float(n), False) for n in (0, 1, 2, 4, 5)]


def test_a_searcher_that_is_exhausted_ends_the_search() -> None:
    ended = drive(make(declare(space={}, searcher=Counting(last=2))), lambda trial: result(0.5))
    assert [trial.config["n"] for trial in ended] == [0, 0, 1, 1, 2, 2]


def test_the_object_of_the_sweep_stays_as_it_was() -> None:
    counting = Counting()
    sweep = declare(space={}, searcher=counting)
    assert preview(sweep, PRECISIONS)[1].config == {"n": 0}
    drive(make(sweep), lambda trial: result(0.5))
    assert counting.next == 0
    assert preview(sweep, PRECISIONS)[0] == 12


def test_a_limited_searcher_waits_for_its_own_results() -> None:
    limited = ConcurrencyLimiter(OptunaSearch(sampler=TPESampler(seed=0)), max_concurrent=1)
    search = make(declare(searcher=limited))
    first, second = (search.suggest(name)["spec"]["trial_id"] for name in ("a", "b"))
    assert (first, second) == ("search-0000-fp32", "search-0000-bf16-mixed")
    assert search.suggest("c") is None
    search.on_trial_complete("b", result=result(0.5))
    assert search.suggest("d")["spec"]["trial_id"] == "search-0001-bf16-mixed"
    assert search.suggest("e") is None
    search.on_trial_complete("a", error=True)
    assert search.suggest("f")["spec"]["trial_id"] == "search-0001-fp32"


class Waiting(Counting):
    """Waits for a success of its first trial."""

    def suggest(self, trial_id: str) -> Any:
        if self.next and not any(not error for _, error in self.told.values()):
            return None
        return super().suggest(trial_id)


def test_a_searcher_that_would_wait_for_ever_ends_the_search() -> None:
    search = make(declare(space={}, searcher=Waiting()))
    for name in "ab":
        assert search.suggest(name)["spec"]["config"] == {"n": 0}
    assert [search.suggest("c") for _ in range(50)] == [None] * 50
    search.on_trial_complete("a", result=result(0.5))
    search.on_trial_complete("b", error=True)
    names = [search.suggest(f"fp32-{number}")["spec"]["trial_id"] for number in range(2)]
    assert names == ["search-0001-fp32", "search-0002-fp32"]
    for number in range(2):
        search.on_trial_complete(f"fp32-{number}", result=result(0.5))
    more = drive(search, lambda trial: result(0.5), limit=100)
    assert {trial.precision for trial in more} == {"fp32"}
    assert search.error is None
    assert search.remark == "Waiting waits for results though no trial runs; the search ends 5 trials early"


def test_repeats_of_a_configuration_have_seeds_of_their_own() -> None:
    repeater = Repeater(OptunaSearch(sampler=TPESampler(seed=0)), repeat=3, set_index=False)
    ended = drive(make(declare(searcher=repeater)), distance, slots=1)
    for precision in PRECISIONS:
        trials = [trial for trial in ended if trial.precision == precision]
        assert [trial.config_id for trial in trials] == [trials[0].config_id] * 3 + [trials[3].config_id] * 3
        assert len({trial.seed for trial in trials}) == 6


def test_a_searcher_keeps_its_own_metric_and_mode() -> None:
    search = make(declare(searcher=OptunaSearch(metric="val_loss", mode="min", sampler=TPESampler(seed=0))))
    ended = drive(search, distance)
    for precision, study in studies(search).items():
        own = [distance(trial)["val_loss"] for trial in ended if trial.precision == precision]
        assert [trial.value for trial in study.trials] == own
        assert study.direction.name == "MINIMIZE"


class Raising(Counting):
    def __init__(self, method: str, after: int) -> None:
        super().__init__()
        self.method, self.after = method, after

    def suggest(self, trial_id: str) -> Any:
        if self.method == "suggest" and self.next >= self.after:
            raise ValueError("planted\nin suggest")
        return super().suggest(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if self.method == "on_trial_result" and self.next >= self.after:
            raise ValueError("planted\nin on_trial_result")

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        if self.method == "on_trial_complete" and self.next >= self.after:
            raise ValueError("planted\nin on_trial_complete")


@pytest.mark.parametrize("method", ["suggest", "on_trial_result", "on_trial_complete"])
def test_an_error_of_the_searcher_ends_the_search_with_its_reason(method: str) -> None:
    search = make(declare(space={}, searcher=Raising(method, after=2)))
    ended = drive(search, lambda trial: result(0.5))
    assert 2 <= len(ended) < 12
    assert str(search.error) == (
        f"searcher: {method} of Raising must not raise, got ValueError: planted in {method}; correct it or the space"
    )
    assert isinstance(search.error.__cause__, ValueError)


def test_a_metric_that_no_trial_reports_ends_the_search() -> None:
    search = make(declare(searcher=OptunaSearch(metric="val_acc", mode="max")))
    ended = drive(search, distance)
    assert len(ended) <= 2
    assert str(search.error).startswith(
        "searcher: the metric of OptunaSearch must be one of val_accuracy, val_loss, got 'val_acc'"
    )


class Odd(Counting):
    def __init__(self, suggestion: Any) -> None:
        super().__init__()
        self.suggestion = suggestion

    def suggest(self, trial_id: str) -> Any:
        return self.suggestion


class Uncopyable(Counting):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot pickle '_thread.lock' object")


class OnlySuggests:
    def suggest(self, trial_id: str) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("searcher", "message"),
    [
        (
            Raising("suggest", after=0),
            "searcher: suggest of Raising must not raise, got ValueError: planted in suggest",
        ),
        (Odd(3), r"searcher: Odd\.suggest must give hyperparameters by name, got 3"),
        (Odd(None), "searcher: Odd must suggest a configuration when first asked, got None"),
        (Odd(Searcher.FINISHED), "searcher: Odd must suggest a configuration when first asked, got 'FINISHED'"),
        (
            Odd({"y": 1}),
            r"searcher: Odd must choose all that the space leaves open, got \['y'\]; add x to its own space",
        ),
        (Odd({"x": [1]}), "searcher, x: must be a finite number"),
        (Odd({"x": 1, "seed": 1}), "searcher: Odd must not choose the precision or the seed, got 'seed'"),
        (
            OptunaSearch(space=lambda trial: 3, metric="m", mode="max"),
            "searcher: suggest of OptunaSearch must not raise, got TypeError: ",
        ),
        (
            OptunaSearch(space=own_space(x=1.0)),
            "searcher: suggest of OptunaSearch must not raise, got RuntimeError: .*`metric`",
        ),
        (Uncopyable(), "searcher: must be an object that can be copied, one for each precision .*_thread.lock"),
        (OnlySuggests(), "searcher: must be a name or a Ray Tune Searcher, got <.*OnlySuggests object"),
    ],
)
def test_a_searcher_that_cannot_begin_is_refused_before_anything_starts(searcher: Any, message: str) -> None:
    sweep = declare(searcher=searcher, space={"x": uniform(0, 1)})
    with pytest.raises(SweepError, match=f"^{message}") as refused:
        preview(sweep, PRECISIONS)
    assert "\n" not in str(refused.value)


def test_a_searcher_that_needs_a_space_is_refused_without_one() -> None:
    with pytest.raises(SweepError, match=r"^searcher: suggest of OptunaSearch must not raise, got RuntimeError: "):
        preview(declare(space={"k": 5}, searcher=OptunaSearch()), PRECISIONS)


def test_tpe_without_optuna_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SweepError, match=r"^searcher: tpe needs optuna.*pip install \"ampsweep\[tpe\]\"") as refused:
        preview(declare(), PRECISIONS)
    assert "\n" not in str(refused.value)


def test_nested_and_own_spaces_are_taken_as_they_are() -> None:
    own = OptunaSearch(space=own_space(**{"model/width": 2.0}), metric="val_loss", mode="min")
    sweep = declare(space={"k": 5}, searcher=own)
    for trial in drive(make(sweep), lambda trial: result(0.5)):
        assert set(trial.config) == {"k", "model/width"}
        assert 0 <= trial.config["model/width"] <= 2


def test_as_many_trials_wait_as_there_are_free_slots_and_always_one() -> None:
    search = make_search(declare(), PRECISIONS, RANKS, {}, slots=3)
    names = iter("abcdefghijkl")
    started: dict[str, SimpleNamespace] = {}

    def ask() -> list[str]:
        """All that are to be had now."""
        asked = []
        for name in names:
            if search.suggest(name) is None:
                return asked
            asked.append(name)
        return asked

    def start(name: str) -> None:
        started[name] = SimpleNamespace(trial_id=name, status="RUNNING")
        search.started(started[name])

    assert ask() == ["a", "b", "c"]
    start("a")
    assert ask() == []  # two wait for two slots
    search.on_trial_complete("a", result=result(0.5))
    assert ask() == ["f"]
    for name in "bcf":
        start(name)
    assert ask() == ["h"]  # all slots are taken; a cluster that grows sees that another one waits
    for name in "bcf":
        started[name].status = "PAUSED"
    assert len(ask()) == 2


def test_planned_trials_leave_out_what_has_ended() -> None:
    sweep = declare(searcher="sobol", num_trials=6)
    plan = plan_search(sweep, PRECISIONS)
    statuses = ["completed", "running", "lost", "pruned"]
    past = {trial.trial_id: {"status": status} for trial, status in zip(plan, statuses, strict=False)}
    search = make(sweep, past)
    assert drive(search, lambda trial: result(0.5)) == [plan[1], plan[2], *plan[4:]]
    assert search.total == 4
