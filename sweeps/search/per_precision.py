"""One scheduler for each precision, so that none is starved by another's faster or slower curve."""

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from sweeps.search.shield import Shielded


class PerPrecision(TrialScheduler):
    """Hands each trial to the scheduler of its precision.

    Args:
        build: makes the scheduler of a precision, when its first trial comes.
        metric: the key of a result that all of them rank by.
    """

    _supports_buffered_results = False

    def __init__(self, build: Callable[[str], Shielded], metric: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.schedulers: dict[str, Shielded] = {}
        self._build = build
        self._metric: str = metric

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Whether no other metric is asked for than the schedulers have already."""
        return metric in (None, self._metric)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A trial joins those of its precision."""
        precision = trial.config["spec"]["precision"]
        if precision not in self.schedulers:
            self.schedulers[precision] = self._build(precision)
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """A trial's process died."""
        self._of(trial).on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> str:
        """What the scheduler of the trial's precision decides."""
        return self._of(trial).on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> None:
        """A trial ended, well or not."""
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A trial ended that did not run."""
        self._of(trial).on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The next trial of the precision that has the fewest running; of the others where it has none to run."""
        for scheduler in sorted(self.schedulers.values(), key=lambda each: each.num_running):
            trial = scheduler.choose_trial_to_run(tune_controller)
            if trial is not None:
                return trial
        return None

    def debug_string(self) -> str:
        """What each scheduler says of itself, under its precision."""
        return "\n".join(f"{name}: {each.debug_string()}" for name, each in self.schedulers.items())

    def _of(self, trial: Trial) -> Shielded:
        return self.schedulers[trial.config["spec"]["precision"]]
