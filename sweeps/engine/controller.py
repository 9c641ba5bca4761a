"""Ray Tune's control loop for a search, without what costs time for every trial and what the journal keeps anyway.

``Tuner.fit`` would write a snapshot of all trials, ask the cluster's store for the trainable five times a trial, make
and remove a placement group for each, ask every worker for its address twice a trial, and read all results back at the
end (``benchmarks/overhead.py`` times both).
"""

from collections import Counter
from typing import Any

import ray
from ray.air.execution.resources.placement_group import PlacementGroupResourceManager
from ray.air.execution.resources.request import ResourceRequest
from ray.tune import Callback, CheckpointConfig, PlacementGroupFactory
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Experiment, Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher, SearchGenerator


def run_trials(
    trainable: type,
    resources: PlacementGroupFactory,
    searcher: Searcher,
    scheduler: TrialScheduler,
    callback: Callback,
    num_trials: int,
    max_pending: int,
    max_failures: int,
    folder: str,
) -> None:
    """Runs the trials that a searcher hands out until all have ended; where it is interrupted, nothing goes on.

    Args:
        trainable: of all trials; its workers are reused.
        resources: of each trial.
        searcher: hands the trials out.
        scheduler: says who goes on.
        callback: is told of all that happens.
        num_trials: at most.
        max_pending: trials that wait for a worker at once.
        max_failures: how often a trial whose process died is tried again.
        folder: for Tune's own files.
    """
    experiment = Experiment(
        "search",
        trainable,
        num_samples=num_trials,
        storage_path=folder,
        max_failures=max_failures,
        checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
    )
    search = _Search(searcher, trainable, resources)
    search.add_configurations([experiment])
    groups = RecycledGroups()
    controller: Any = _Controller(
        search_alg=search,
        scheduler=scheduler,
        callbacks=[callback],
        storage=experiment.storage,
        reuse_actors=True,
        resource_manager_factory=lambda: groups,
    )
    controller.update_max_pending_trials(max_pending)
    _run(controller, groups)


def _run(controller: Any, groups: "RecycledGroups") -> None:
    """Runs to the end; where that is not reached, frees what a Ray that outlives the driver would keep reserved."""
    try:
        while not controller.is_finished():
            controller.step()
        controller.cleanup()
    except BaseException:
        for actor, _ in controller._actor_manager._live_actors_to_ray_actors_resources.values():
            ray.kill(actor)
        groups.clear()  # type: ignore[no-untyped-call]
        raise


class _Controller(TuneController):
    """Tune's controller without snapshots, since a sweep is resumed from its journal; it forgets trials that ended.

    A worker that is starting comes to its start. Tune would hand the trial that it starts for to the next worker that
    becomes free, and end it: where trials are shorter than the start of a worker, one worker would run them all.
    """

    def checkpoint(self, force: bool = False, wait: bool = False) -> None:
        """Nothing."""

    def get_trials(self) -> "list[_Trial]":
        """The trials that have not ended: schedulers look through them at every step for the first that may start."""
        trials: set[Any] = self._pending_trials | self._running_trials | self._paused_trials
        return sorted(trials, key=lambda trial: (self._has_worker(trial), trial.number))

    def _maybe_reuse_cached_actor(self, trial: Trial) -> bool:
        """Whether the trial has a worker now."""
        return self._has_worker(trial) or bool(super()._maybe_reuse_cached_actor(trial))

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
        super().__init__(trainable.__name__, stub=True, **arguments)

    def get_trainable_cls(self) -> type:
        """The trainable; Tune would look it up in the cluster's store."""
        return self._trainable

    def handle_error(self, exc: Any = None) -> None:
        """Takes what ended the trial's process; Tune would keep only some of it, in files."""
        self.died_of = exc
        super().handle_error(exc)

    def set_ray_actor(self, ray_actor: Any) -> None:
        """Takes the trial's worker; Tune would ask it for its address."""
        self.temporary_state.ray_actor = ray_actor

    def update_last_result(self, result: dict[str, Any]) -> None:
        """Takes a result; Tune would keep statistics of every number in it."""
        self.run_metadata.last_result = result


class _Search(SearchGenerator):
    """Makes trials of what a searcher suggests.

    Args:
        searcher: suggests their configurations.
        trainable: of all.
        resources: of each.
    """

    def __init__(self, searcher: Searcher, trainable: type, resources: PlacementGroupFactory) -> None:
        super().__init__(searcher)
        self._trainable, self._resources = trainable, resources

    def create_trial_if_possible(self, experiment_spec: dict[str, Any]) -> Trial | None:
        """The next trial; ``None`` where there is none for now."""
        trial_id = Trial.generate_id()
        config: Any = self.searcher.suggest(trial_id)
        self._finished = config == Searcher.FINISHED
        if config is None or self._finished:
            return None
        self._counter += 1
        return _Trial(
            self._trainable,
            self._counter,
            config=config,
            trial_id=trial_id,
            storage=experiment_spec["storage"],
            placement_group_factory=self._resources,
            checkpoint_config=experiment_spec["checkpoint_config"],
            max_failures=experiment_spec["max_failures"],
            trial_dirname_creator=lambda trial: str(trial.config["spec"]["trial_id"]),
        )


class RecycledGroups(PlacementGroupResourceManager):
    """Hands the placement group of a request that was taken back to the next request alike.

    Tune requests one for every trial that waits, and takes the request back when a worker becomes free. The group
    itself may as well go on waiting for the next trial: a cluster that can grow still sees what is wanted.
    """

    def __init__(self, update_interval_s: float = 0.1) -> None:
        super().__init__(update_interval_s)
        self._spare: Counter[ResourceRequest] = Counter()

    def request_resources(self, resource_request: ResourceRequest) -> None:
        """Takes a spare group where there is one."""
        if self._spare[resource_request]:
            self._spare[resource_request] -= 1
        else:
            super().request_resources(resource_request)

    def cancel_resource_request(self, resource_request: ResourceRequest) -> None:
        """Makes the request's group a spare one."""
        self._spare[resource_request] += 1
