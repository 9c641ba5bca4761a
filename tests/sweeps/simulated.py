"""Tune's controller without its actors: it drives a scheduler as Tune does, in an order drawn from a seed."""

import math
import random
from collections.abc import Mapping
from typing import Any, Literal

from ray.train._internal.session import _TrainingResult
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import SearchGenerator

from sweeps import Sweep, choice, loguniform

Fault = tuple[Literal["dies", "dies twice", "nan", "fails"], int]
"""What befalls a trial, and at which of its reports."""

METRIC = "val_accuracy"


SPACE = {"learning_rate": loguniform(1e-4, 1e-1), "width": choice([4, 8])}


def declare(**fields: Any) -> Sweep:
    """A sweep, up to the fields that matter."""
    return Sweep(**{"name": "digits", "task": "tasks:build", "space": SPACE} | fields)


def make_trial(index: int, precision: str = "fp32", **config: Any) -> Trial:
    """A trial of Tune's own, as the searcher hands it out; it needs no running Ray."""
    spec = {"trial_id": f"search-{index:04d}-{precision}", "precision": precision, "seed": index, "config": config}
    return Trial("train", config={"spec": spec}, stub=True)


class Simulation:
    """Runs trials on slots until all have ended or none can go on.

    Args:
        scheduler: decides.
        trials: all of them.
        max_t: reports of a full trial.
        faults: trial's number -> what befalls it.
        slots: trials that run at once.
        seed: of the order of events and of the metrics.
        waiting: trials that are added before their turn; 16 with a plan, 1 with a searcher that follows results.
    """

    search_alg = SearchGenerator.__new__(SearchGenerator)
    """What Tune makes of any searcher, and what population based training refuses to see."""

    def __init__(
        self,
        scheduler: TrialScheduler,
        trials: list[Trial],
        max_t: int,
        faults: Mapping[int, Fault] | None = None,
        slots: int = 2,
        seed: int = 0,
        waiting: int = 16,
    ) -> None:
        self._scheduler, self._to_add, self._max_t, self._slots = scheduler, list(trials), max_t, slots
        self._faults = {trials[index]: fault for index, fault in (faults or {}).items()}
        self._random, self._waiting = random.Random(seed), waiting
        self.reports = dict.fromkeys(trials, 0)
        self.trials: list[Trial] = []
        self.ended: dict[Trial, str] = {}
        self.num_pauses = 0

    def get_trials(self) -> list[Trial]:
        return self.trials

    def get_live_trials(self) -> set[Trial]:
        """As Tune's, with those whose process died."""
        return {trial for trial in self.trials if trial.status != Trial.TERMINATED}

    def stop_trial(self, trial: Trial) -> None:
        if trial.is_finished():
            return
        if trial.status == Trial.RUNNING:
            self._scheduler.on_trial_complete(self, trial, self._result(trial))
        else:
            self._scheduler.on_trial_remove(self, trial)
        self._end(trial, "pruned")

    def pause_trial(self, trial: Trial, should_checkpoint: bool = True) -> None:
        """As population based training asks for it: at once, without saving."""
        assert not should_checkpoint
        self.num_pauses += 1
        trial.status = Trial.PAUSED

    def _schedule_trial_save(self, trial: Trial, result: Mapping[str, Any]) -> Any:
        self._save(trial, result)
        return trial.checkpoint

    def _save(self, trial: Trial, result: Mapping[str, Any]) -> None:
        saved: Any = f"{trial.config['spec']['trial_id']} at {result['training_iteration']}"
        manager = trial.run_metadata.checkpoint_manager
        manager._latest_checkpoint_result = _TrainingResult(saved, dict(result))

    def run(self) -> dict[Trial, str]:
        """How each trial ended; raises where the rest would wait for ever."""
        while self._to_add or not all(trial.is_finished() for trial in self.trials):
            self._add()
            self._start()
            running = [trial for trial in self.trials if trial.status == Trial.RUNNING]
            if not running:
                raise AssertionError(f"waiting for ever: {[trial.status for trial in self.trials]}")
            self._event(self._random.choice(running))
        return self.ended

    def _add(self) -> None:
        while self._to_add and sum(trial.status == Trial.PENDING for trial in self.trials) < self._waiting:
            self.trials.append(self._to_add.pop(0))
            self._scheduler.on_trial_add(self, self.trials[-1])

    def _start(self) -> None:
        while sum(trial.status == Trial.RUNNING for trial in self.trials) < self._slots:
            pending = (trial for trial in self.trials if trial.status == Trial.PENDING)
            chosen = self._scheduler.choose_trial_to_run(self) or next(pending, None)
            if chosen is None:
                return
            assert chosen.status in (Trial.PENDING, Trial.PAUSED)
            if chosen.latest_checkpoint_result is not None:
                self.reports[chosen] = chosen.latest_checkpoint_result.metrics["training_iteration"]
            chosen.status = Trial.RUNNING

    def _event(self, trial: Trial) -> None:
        if trial.is_saving:
            self._save(trial, self._result(trial))
            trial.temporary_state.saving_to, trial.status = None, Trial.PAUSED
        elif self._fault(trial, next_report=True)[:4] == "dies":
            self._die(trial)
        else:
            self._report(trial)

    def _die(self, trial: Trial) -> None:
        """Its process dies; the first time it is begun again."""
        kind, report = self._faults.pop(trial)
        trial.status = Trial.ERROR
        self._scheduler.on_trial_error(self, trial)
        if kind == "dies":
            self.ended[trial] = "lost"
            return
        self._faults[trial] = ("dies", report)
        self.reports[trial] = 0
        trial.status = Trial.PENDING
        self._scheduler.on_trial_add(self, trial)

    def _report(self, trial: Trial) -> None:
        self.reports[trial] += 1
        failed = self._fault(trial) in ("nan", "fails")
        if failed or self.reports[trial] >= self._max_t:
            self._scheduler.on_trial_complete(self, trial, self._result(trial))
            self._end(trial, "failed" if failed else "completed")
            return
        decision = self._scheduler.on_trial_result(self, trial, self._result(trial))
        if decision == TrialScheduler.PAUSE:
            self.num_pauses += 1
            trial.temporary_state.saving_to = object()
        elif decision == TrialScheduler.STOP:
            self.stop_trial(trial)

    def _fault(self, trial: Trial, next_report: bool = False) -> str:
        kind, report = self._faults.get(trial, ("", 0))
        return kind if report == self.reports[trial] + next_report else ""

    def _result(self, trial: Trial) -> dict[str, Any]:
        if not self.reports[trial]:
            return {}
        result = {"training_iteration": self.reports[trial], METRIC: self._random.random()}
        if self._fault(trial) == "nan":
            result[METRIC] = math.nan
        if self._fault(trial) == "fails":
            del result[METRIC]
        return result

    def _end(self, trial: Trial, how: str) -> None:
        trial.temporary_state.saving_to, trial.status = None, Trial.TERMINATED
        self.ended[trial] = how
