"""Ray Tune's control loop for a search, without what costs time for every trial and what the journal keeps anyway.

``Tuner.fit`` would write a snapshot of all trials, ask the cluster's store for the trainable five times a trial, make
and remove a placement group for each, ask every worker for its address twice a trial, and read all results back at the
end (``benchmarks/overhead.py`` times both).
"""

from collections.abc import Callable, Sequence
from typing import Any

from ray.air.constants import TRAINING_ITERATION
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.tune import Callback, CheckpointConfig
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Experiment, Trial
from ray.tune.experiment.trial import _TrialInfo
from ray.tune.result import TRIAL_INFO
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher, SearchGenerator
from ray.tune.stopper import FunctionStopper

from sweeps.engine.failures import Losses, Misplaced
from sweeps.engine.workers import Workers


def run_trials(
    workers: Workers,
    searcher: Searcher,
    scheduler: TrialScheduler,
    callback: Callback,
    num_trials: int,
    max_pending: int,
    folder: str,
    is_over: Callable[[], bool] = lambda: False,
    on_rest: Callable[[Trial], None] = lambda trial: None,
) -> None:
    """Runs the trials that a searcher hands out until all have ended.

    Once the search is over, no further trial starts, those that wait or pause end, and those that run end with their
    next report.

    Args:
        workers: that have started or are starting; they are reused, and end with the search.
        searcher: hands the trials out.
        scheduler: says who goes on.
        callback: is told of all that happens.
        num_trials: at most.
        max_pending: trials that wait for a worker at once.
        folder: for Tune's own files.
        is_over: whether the search is to end by now; once it is, it stays so.
        on_rest: is told of each trial that leaves its worker, be it for a while.
    """
    experiment = Experiment(
        "search",
        workers.trainable,
        num_samples=num_trials,
        storage_path=folder,
        checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
    )
    controller: Any = _Controller(
        search_alg=_search_of(experiment, searcher, workers),
        scheduler=scheduler,
        callbacks=[callback],
        storage=experiment.storage,
        reuse_actors=True,
        stopper=FunctionStopper(lambda trial_id, result: is_over()),
    )
    controller.update_max_pending_trials(max_pending)
    controller.on_rest = on_rest
    controller.take_over(workers)
    _run_until(is_over, controller, workers)


def _search_of(experiment: Experiment, searcher: Searcher, workers: Workers) -> "_Search":
    search = _Search(searcher, workers)
    search.add_configurations([experiment])
    return search


def _run_until(is_over: Callable[[], bool], controller: Any, workers: Workers) -> None:
    """Runs all trials, or those that there are until the search is over."""
    while not controller.is_finished():
        controller.step()
        if is_over():
            controller.end_early()
        if controller._search_alg.is_finished():
            workers.want_no_more()
    controller.end_idle()
    controller.cleanup()


class _Controller(TuneController):
    """Tune's controller without snapshots, since a sweep is resumed from its journal; it forgets trials that ended.

    A worker that is starting comes to its start. Tune would hand the trial that it starts for to the next worker that
    becomes free, and end it: where trials are shorter than the start of a worker, one worker would run them all.

    A worker that is free takes its next trial and trains in one call. Tune would wait for its word that it has taken it
    before it calls again, while the worker and its device stand idle.

    ``on_rest`` is told of each trial that leaves its worker.
    """

    on_rest: Callable[[Trial], None]

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._beginning: list[Trial] = []

    def take_over(self, workers: Workers) -> None:
        """Has trials run in workers that were there before it."""
        self._workers, self._actor_manager, self._request = workers, workers.manager, workers.request
        for worker in workers.manager.all_actors:
            worker.set_on_start(self._worker_started)
            worker.set_on_stop(self._actor_stopped)
            worker.set_on_error(self._worker_failed)
        self._actor_cache.increase_max(workers.request, len(workers.started))
        for worker in workers.started:
            self._worker_started(worker)
        self._actor_cache.decrease_max(workers.request, len(workers.started))

    def _worker_started(self, worker: TrackedActor) -> None:
        """A worker without a trial waits for one, as one does whose trial has ended."""
        self._started_actors.add(worker)
        if not self._actor_cache.cache_object(self._request, worker):
            self._remove_actor(worker)

    def end_early(self) -> None:
        """Asks for no further trials and ends those that have no worker."""
        self._search_alg.set_finished()
        stop: Callable[[Trial], None] = self.stop_trial
        for trial in [*self._pending_trials, *self._paused_trials]:
            if trial in self._staged_trials:
                self._unstage_trial_with_resources(trial)
            stop(trial)

    def _set_trial_status(self, trial: Trial, status: str) -> None:
        """Notes where a trial stands; one that no longer runs has left its worker."""
        if trial.status == Trial.RUNNING != status:
            self.on_rest(trial)
        super()._set_trial_status(trial, status)

    def end_idle(self) -> None:
        """Ends workers that came too late for any trial; Tune would wait for them."""
        for worker in self._actor_manager.live_actors:
            if worker not in self._started_actors:
                self._actor_manager.remove_actor(worker, kill=True)

    def _worker_failed(self, worker: TrackedActor, exception: Exception) -> None:
        """A worker died; one without a trial is missed by nobody."""
        if worker in self._actor_to_trial:
            self._actor_failed(worker, exception)

    def _trial_task_failure(self, trial: Any, exception: Exception) -> None:
        """Takes note of a failure, once: of a worker that dies while it is given a trial, Tune is told twice."""
        self._resetting_trials.discard(trial)
        if trial.died_of is not exception:
            super()._trial_task_failure(trial, exception)

    def _on_training_result(self, trial: Any, result: Any) -> None:
        """Takes a result; a trial whose device does not have its precision begins again on another, if there is one.

        Nodes may join of a device type that has not been probed: such trials end at once, and one node would take all.
        """
        report = result.get("report", {})
        precision = trial.config["spec"].get("precision")
        if report.get("status") == "unsupported" and self._workers.rule_out(precision, result["node_ids"]):
            trial.placement_group_factory = self._workers.own_requests[precision]
            self._trial_task_failure(trial, Misplaced(report["status_reason"]))
        else:
            super()._on_training_result(trial, result)  # type: ignore[no-untyped-call]

    def checkpoint(self, force: bool = False, wait: bool = False) -> None:
        """Nothing."""

    def get_trials(self) -> "list[_Trial]":
        """The trials that have not ended: schedulers look through them at every step for the first that may start."""
        trials: set[Any] = self._pending_trials | self._running_trials | self._paused_trials
        return sorted(trials, key=lambda trial: (self._has_worker(trial), trial.number))

    def _maybe_reuse_cached_actor(self, trial: Trial) -> bool:
        """Whether the trial has a worker now."""
        return self._has_worker(trial) or bool(super()._maybe_reuse_cached_actor(trial))

    def _schedule_trial_reset(self, trial: Trial, new_config: dict[str, Any], new_experiment_tag: str) -> None:
        """Has a trial begin in a worker that has had others; one that goes on from a state is given that first."""
        if trial.latest_checkpoint_result:
            super()._schedule_trial_reset(trial, new_config, new_experiment_tag)
        else:
            self._resetting_trials.add(trial)
            self._beginning.append(trial)

    def _maybe_update_trial_queue(self) -> None:
        """Asks for further trials, once those that wait have begun in the workers that are free."""
        if self._pending_trials and self._actor_cache.num_cached_objects:
            self._maybe_add_actors()
        super()._maybe_update_trial_queue()  # type: ignore[no-untyped-call]

    def _maybe_add_actors(self) -> None:
        """Finds workers for trials, and has those begin for which there is one; before, Tune may not know of all."""
        super()._maybe_add_actors()
        while self._beginning:
            self._actor_started(self._trial_to_actor[self._beginning.pop(0)], log="REUSED")

    def _schedule_trial_train(self, trial: Trial) -> None:
        """Has a trial train until its next report; the first time, its worker takes the trial with the same call."""
        if trial not in self._resetting_trials:
            super()._schedule_trial_train(trial)
            return
        self._resetting_trials.remove(trial)
        self._schedule_trial_task(
            trial,
            "take",
            args=({**trial.config, TRIAL_INFO: _TrialInfo(trial)}, trial.storage),
            on_result=self._on_training_result,
            on_error=self._trial_task_failure,
        )

    def _has_worker(self, trial: Trial) -> bool:
        actor = self._trial_to_actor.get(trial)
        return actor is not None and self._actor_manager.is_actor_started(actor)


class _Trial(Trial):
    """A trial without what nobody asks Tune for.

    Args:
        trainable: what it runs.
        number: its place among the trials.
        arguments: Tune's own.
    """

    def __init__(self, trainable: type, number: int, **arguments: Any) -> None:
        self._trainable, self.number = trainable, number
        self.died_of: BaseException | None = None
        self._losses, self._goes_on = Losses(), False
        self._node_ids: Sequence[str] = ()
        super().__init__(trainable.__name__, stub=True, **arguments)

    def get_trainable_cls(self) -> type:
        """The trainable; Tune would look it up in the cluster's store."""
        return self._trainable

    def handle_error(self, exc: Any = None) -> None:
        """Takes what ended the trial's process; Tune would keep only some of it, in files."""
        self.died_of = exc
        reports = self.run_metadata.last_result.get(TRAINING_ITERATION, 0)
        self._goes_on = self._losses.goes_on(exc, reports, self._node_ids)
        super().handle_error(exc)

    def should_recover(self) -> bool:
        """Whether the trial goes on in another process."""
        return self._goes_on

    def set_ray_actor(self, ray_actor: Any) -> None:
        """Takes the trial's worker; Tune would ask it for its address."""
        self.temporary_state.ray_actor = ray_actor
        if ray_actor is not None:
            self._node_ids = ()  # until it reports

    def update_last_result(self, result: dict[str, Any]) -> None:
        """Takes a result; Tune would keep statistics of every number in it."""
        self.run_metadata.last_result = result
        self._node_ids = result.get("node_ids", ())


class _Search(SearchGenerator):
    """Makes trials of what a searcher suggests.

    Args:
        searcher: suggests their configurations.
        workers: that they run in.
    """

    def __init__(self, searcher: Searcher, workers: Workers) -> None:
        super().__init__(searcher)
        self._workers = workers

    def create_trial_if_possible(self, experiment_spec: dict[str, Any]) -> Trial | None:
        """The next trial; ``None`` where there is none for now."""
        trial_id = Trial.generate_id()
        config: Any = self.searcher.suggest(trial_id)
        self._finished = config == Searcher.FINISHED
        if config is None or self._finished:
            return None
        self._counter += 1
        precision = config["spec"].get("precision")
        return _Trial(
            self._workers.trainable,
            self._counter,
            config=config,
            trial_id=trial_id,
            storage=experiment_spec["storage"],
            placement_group_factory=self._workers.own_requests.get(precision, self._workers.request),
            checkpoint_config=experiment_spec["checkpoint_config"],
            trial_dirname_creator=lambda trial: str(trial.config["spec"]["trial_id"]),
        )
