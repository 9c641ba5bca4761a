"""Searches driven by hand, as Ray Tune drives them, with real searchers and made-up results."""

import json
from collections import deque
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from optuna.distributions import FloatDistribution
from ray.tune.search import Searcher

from sweeps import Sweep, choice, loguniform, quniform, uniform
from sweeps.engine.rows import started
from sweeps.search.plan import PlannedTrial
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


def rows_of(search: Any, ended: list[PlannedTrial], evaluate: Evaluate) -> dict[str, dict[str, Any]]:
    """The journal's rows of a search that was interrupted."""
    rows = {name: started(trial, "search", 1, 0) for name, trial in search.trials.items()}
    for trial in ended:
        last = evaluate(trial)
        status = "errored" if last is None else "completed" if last["report/status"] == "completed" else "pruned"
        rows[trial.trial_id] |= {"status": status, **(last or {})}
    return json.loads(json.dumps(rows))


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
