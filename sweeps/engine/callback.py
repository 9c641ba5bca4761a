"""What Ray Tune tells of its trials, as rows of the journal."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from analysis.schema import Status
from sweeps.engine import rows
from sweeps.engine.cluster import Resources
from sweeps.engine.endings import Endings
from sweeps.engine.failures import failure
from sweeps.engine.recorder import Recorder
from sweeps.search.searchers import Search


class JournalCallback(tune.Callback):
    """Records what Tune tells of its trials.

    Args:
        search: knows the trials; is told which of them start.
        resources: of each.
        scheduler: name of what prunes, for the reason of a pruned trial.
        recorder: takes the rows.
        endings: takes the trials that end.
    """

    def __init__(
        self,
        search: Search,
        resources: Resources,
        scheduler: str,
        recorder: Recorder,
        endings: Endings,
    ) -> None:
        self._search = search
        self._resources, self._scheduler = resources, scheduler
        self._recorder, self._endings = recorder, endings
        self._last: dict[str, Mapping[str, Any]] = {}
        self.actors: set[Any] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles callbacks for a restore that is not used here, and a journal is an open file."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial got its worker."""
        self.actors.add(trial.temporary_state.ray_actor)
        self._search.started(trial)
        planned = self._search.trials[trial.config["spec"]["trial_id"]]
        row = rows.started(planned, "search", self._resources.num_cpus, self._resources.num_gpus)
        self._recorder.record("trial", row)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial reported."""
        report = result["report"]
        self._last[report["trial_id"]] = report
        if report["metrics"]:
            self._recorder.record("report", rows.reported("search", report))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial ended by itself or was stopped by the scheduler."""
        report = self._last.pop(trial.config["spec"]["trial_id"])
        status, reason = report["status"], report["status_reason"]
        if status == "running":
            status, reason = "pruned", f"stopped by {self._scheduler} after epoch {report['epoch']:g}"
        self._ended(trial, report, status, reason)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial's process died."""
        status, reason = failure(_error_of(trial))
        self._ended(trial, self._last.pop(trial.config["spec"]["trial_id"], None), status, reason)

    def _ended(self, trial: Trial, report: Mapping[str, Any] | None, status: Status, reason: str | None) -> None:
        spec = trial.config["spec"]
        self._endings.record(spec["trial_id"], spec["precision"], report, status, reason)


def _error_of(trial: Trial) -> BaseException:
    """The error that Tune left in the trial's folder."""
    try:
        error = pickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:
        return RuntimeError("its error could not be read")
    return error if isinstance(error, BaseException) else RuntimeError(str(error))
