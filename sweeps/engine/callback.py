"""What Ray Tune tells of its trials, as rows of the journal."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from ray import tune
from ray.tune.experiment import Trial

from analysis.schema import Status
from sweeps.engine import rows
from sweeps.engine.cluster import Resources
from sweeps.engine.endings import Endings
from sweeps.engine.failures import failure
from sweeps.engine.idle import Idle
from sweeps.engine.recorder import Recorder
from sweeps.engine.search_budget import SearchBudget
from sweeps.engine.tracking import tell_end
from sweeps.search.checks import Unfinished
from sweeps.search.plan import PlannedTrial, with_config
from sweeps.search.population import DONOR
from sweeps.search.searchers import Search

_Told = TypeVar("_Told", bound=Callable[..., None])


class Ending(BaseException):
    """Carries what ends the sweep through Tune, which takes every ``Exception`` for a trial's own."""


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raises what an :class:`Ending` has carried out of Tune."""
    try:
        yield
    except Ending as ending:
        raise cast(BaseException, ending.__cause__) from None


def _through_tune(told: _Told) -> _Told:
    """What Tune calls, with an :class:`Ending` in place of an ``Unfinished``."""

    @functools.wraps(told)
    def tell(*arguments: Any, **info: Any) -> None:
        try:
            told(*arguments, **info)
        except Unfinished as error:
            raise Ending from error

    return cast(_Told, tell)


class JournalCallback(tune.Callback):
    """Records what Tune tells of its trials.

    Each method raises :class:`Ending` where the storage can no longer be written.

    Args:
        search: knows the trials; is told which of them start.
        resources: of each.
        scheduler: name of what prunes, for the reason of a pruned trial.
        recorder: takes the rows.
        endings: takes the trials that end.
        budget: of the search; once it is spent, it is what stops trials.
    """

    def __init__(
        self,
        search: Search,
        resources: Resources,
        scheduler: str,
        recorder: Recorder,
        endings: Endings,
        budget: SearchBudget,
    ) -> None:
        self._search = search
        self._resources, self._scheduler = resources, scheduler
        self._recorder, self._endings, self._budget = recorder, endings, budget
        self._last: dict[str, Mapping[str, Any]] = {}
        self._begun: dict[str, PlannedTrial] = {}
        self._running: set[str] = set()
        self._idle = Idle(recorder.progress, resources.per_worker, resources.num_workers)

    @_through_tune
    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial got its worker: for the first time, or again after a pause and perhaps with other hyperparameters."""
        self._search.started(trial)
        self._running.add(trial.trial_id)
        self._begins(trial)  # first: an interruption between the two must not leave a cost without its trial
        self._recorder.meter.begins(trial.config["spec"]["trial_id"], self._resources.per_worker)

    @property
    def begun(self) -> Collection[str]:
        """Ids of the trials that have begun."""
        return self._begun

    def _begins(self, trial: Trial) -> None:
        spec = trial.config["spec"]
        now = with_config(self._search.trials[spec["trial_id"]], spec["config"])
        before = self._begun.get(now.trial_id)
        if before is None:
            resources = self._resources
            row = rows.started(now, "search", resources.num_cpus, resources.num_gpus, resources.num_workers)
            self._recorder.record("trial", row)
        elif now != before:
            self._recorder.begins_anew(now.trial_id)  # its donor may not have come as far
            self._recorder.record("trial", rows.changed(now, trial.config.get(DONOR)))
        self._begun[now.trial_id] = now

    @_through_tune
    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial reported."""
        report = result["report"]
        self._last[report["trial_id"]] = report
        self._recorder.meter.is_at(report["trial_id"], report["device"], result["node_ids"])
        self._recorder.warn(report["warning"])
        if report["metrics"]:
            self._recorder.record("report", rows.reported("search", report))

    def on_trial_rest(self, trial: Trial) -> None:
        """A trial left its worker: it has ended, was lost, or pauses."""
        self._running.discard(trial.trial_id)
        self._recorder.meter.rests(trial.config["spec"]["trial_id"])

    @_through_tune
    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tune has handled an event, or waited a moment for one."""
        self._idle.look(bool(self._running))
        self._recorder.keep_costs()

    @_through_tune
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial ended by itself or was stopped by the scheduler, or the budget ended the search."""
        trial_id = trial.config["spec"]["trial_id"]
        if self._budget.spent and trial_id not in self._begun:
            return  # it never ran
        report = self._last.pop(trial_id, None)
        if report is not None and report["status"] != "running":
            self._ended(trial, report, report["status"], report["status_reason"])
        else:
            when = f"after epoch {report['epoch']:g}" if report is not None else "before its first report"
            reason = f"stopped by {self._budget.spent or self._scheduler} {when}"
            self._ended(trial, report, "pruned", reason)
            if trial.config["spec"].get("tracking") is not None and trial.temporary_state.ray_actor is not None:
                # Its worker does not know; what is sent now comes before the worker ends or takes the next trial.
                trial.temporary_state.ray_actor.tell_end.remote("pruned", reason)

    @_through_tune
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial's process died."""
        status, reason = failure(_error_of(trial))
        self._ended(trial, self._last.pop(trial.config["spec"]["trial_id"], None), status, reason)
        tell_end(trial.config["spec"], status, reason)

    def _ended(self, trial: Trial, report: Mapping[str, Any] | None, status: Status, reason: str | None) -> None:
        spec = trial.config["spec"]
        if spec["trial_id"] not in self._begun:  # it ended while its worker was starting
            self._begins(trial)
        self._endings.record(spec["trial_id"], spec["precision"], report, status, reason)


def _error_of(trial: Any) -> BaseException:
    """What ended a trial's process, as :mod:`sweeps.engine.controller` keeps it."""
    error = trial.died_of
    return error if isinstance(error, BaseException) else RuntimeError(str(error))
