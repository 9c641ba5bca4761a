"""Searchers and trials that fail: one line says which, and no search hangs or is misled."""

import math
import sys
from typing import Any

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from searches import PRECISIONS, Counting, declare, distance, drive, make, own_space, result, studies

from sweeps import SweepError, uniform
from sweeps.search.plan import PlannedTrial, preview


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
