"""What stands between Tune and a scheduler of Ray's, so that failed trials, NaN and lost company do not trip it."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from sweeps.search.asha import TIME

WORST = 1e300
"""What a scheduler is shown, with the worse sign, for a metric that is missing or not finite. Not an infinity: the
percentiles of Ray's ASHA turn one into NaN, and a comparison with NaN stops nobody."""


class TrialsOf:
    """Tune's controller as one of several schedulers may see it: with its own trials alone, while they live.

    Ray leaves a trial whose process died among the living, and synchronous PBT would wait for it.

    Args:
        controller: Tune's own; it does all that is not answered here.
        trials: those of the scheduler.
        search_alg: the searcher that the scheduler is told of.
    """

    def __init__(self, controller: Any, trials: list[Trial], search_alg: Any) -> None:
        self._controller, self._trials, self.search_alg = controller, trials, search_alg

    def get_trials(self) -> list[Trial]:
        """The living trials, in the order in which they were added."""
        return self._trials

    def get_live_trials(self) -> set[Trial]:
        """The same as a set."""
        return set(self._trials)

    def __getattr__(self, name: str) -> Any:
        """Whatever else the controller has."""
        return getattr(self._controller, name)


class Shielded(TrialScheduler):
    """Runs a scheduler of Ray's on trials that may fail, report no metric, or report NaN.

    A metric that is missing or not finite is shown to it as the worst of all. Where all of its trials are paused and it
    lets none of them go on, the first of them does: Ray's HyperBand forgets a bracket that loses a trial after its
    first halving, and the others would wait for ever.

    Args:
        scheduler: what decides; it knows its metric and mode.
        metric, mode: what it ranks by.
    """

    _supports_buffered_results = False

    def __init__(self, scheduler: TrialScheduler, metric: str, mode: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.scheduler = scheduler
        self._metric: str = metric
        self._worst = -WORST if mode == "max" else WORST
        self._trials: list[Trial] = []

    @property
    def living(self) -> list[Trial]:
        """Its trials that have not ended, in the order in which they were added."""
        self._trials = [trial for trial in self._trials if not trial.is_finished()]
        return self._trials

    @property
    def num_running(self) -> int:
        """How many of its trials run."""
        return sum(trial.status == Trial.RUNNING for trial in self.living)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Whether no other metric is asked for than the scheduler has already."""
        return metric in (None, self._metric)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A trial joins."""
        if trial not in self._trials:
            self._trials.append(trial)
        self.scheduler.on_trial_add(self.view(tune_controller), trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """A trial's process died."""
        self.scheduler.on_trial_error(self.view(tune_controller), trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> str:
        """What the scheduler decides on a report."""
        return self.scheduler.on_trial_result(self.view(tune_controller), trial, self._shown(result))

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> None:
        """A trial ended, well or not; one that never reported is taken away."""
        if TIME in result:
            self.scheduler.on_trial_complete(self.view(tune_controller), trial, self._shown(result))
        else:
            self.on_trial_remove(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A trial ended that did not run."""
        self.scheduler.on_trial_remove(self.view(tune_controller), trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The trial that the scheduler would run next, else one that would wait for ever."""
        chosen = self.scheduler.choose_trial_to_run(self.view(tune_controller))
        if chosen is None and self.living and all(trial.status == Trial.PAUSED for trial in self.living):
            return self.living[0]
        return chosen

    def debug_string(self) -> str:
        """The scheduler's own."""
        return str(self.scheduler.debug_string())

    def view(self, tune_controller: Any) -> Any:
        """The controller as the scheduler sees it."""
        return TrialsOf(tune_controller, self.living, tune_controller.search_alg)

    def _shown(self, result: Mapping[str, Any]) -> dict[str, Any]:
        value = result.get(self._metric)
        known = isinstance(value, Real) and math.isfinite(value)
        return result if known else {**result, self._metric: self._worst}  # type: ignore[return-value]
