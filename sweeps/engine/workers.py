"""The processes that probe and search run in: they start, and import PyTorch, before anything is known of the search.

Ray Tune starts workers of its own only for trials, so after the probe, and importing takes longer than the probe.
"""

from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.air.execution.resources.placement_group import PlacementGroupResourceManager
from ray.air.execution.resources.request import ResourceRequest
from ray.tune import PlacementGroupFactory

from sweeps.engine.cluster import Resources
from sweeps.engine.leaving import leave
from sweeps.engine.remote import group_of
from sweeps.search.checks import Unfinished
from trainables.adapters.ray_tune import TuneTrial

MOST_FAILED = 3
"""Workers that may die while they start, before the sweep gives up."""


class Workers:
    """Workers of one kind, which Tune's controller takes over when the search begins.

    Whatever is left of them ends with the context, so that nothing stays reserved on a Ray that outlives the driver.

    Args:
        trainable: what they run; made without a configuration, it imports what trials need.
        resources: of each; one of a trial of several workers starts the others.

    ``manager`` is Tune's own, ``request`` what each of them asks of it; ``own_requests`` has what trials of a precision
    ask of it that may not run everywhere.
    """

    def __init__(self, trainable: type[TuneTrial], resources: Resources) -> None:
        self.trainable = trainable
        self._resources = resources
        self.request = PlacementGroupFactory(**group_of(resources.per_worker, resources.num_workers))
        self.own_requests: dict[str, PlacementGroupFactory] = {}
        self._groups = RecycledGroups()
        self._groups.expected = 0 if resources.waits_for else resources.slots
        self.manager = RayActorManager(self._groups)
        self.started: list[TrackedActor] = []
        self._remote = ray.remote(trainable)
        self._num_failed = 0

    def start(self, count: int) -> None:
        """Has at least that many workers start, without waiting for them."""
        for _ in range(count - self.manager.num_total_actors):
            self._add()
        self.manager.next(timeout=0)

    def keep_to(self, precision: str, placement: Mapping[str, Any]) -> None:
        """Has trials of a precision run on some nodes alone, in workers of their own.

        Args:
            precision: of the ladder.
            placement: options of Ray's tasks that keep them there.
        """
        options = {**self._resources.per_worker, **placement}
        self.own_requests[precision] = PlacementGroupFactory(**group_of(options, self._resources.num_workers))

    def want_no_more(self) -> None:
        """Takes back what was asked of the cluster for trials that have found a worker elsewhere."""
        self._groups.drop_spares()

    def _add(self) -> None:
        self.manager.add_actor(self._remote, {}, self.request, on_start=self.started.append, on_error=self._failed)

    def _failed(self, worker: TrackedActor, error: Exception) -> None:
        self._num_failed += 1
        if self._num_failed >= MOST_FAILED:
            *_, why = str(error).strip().splitlines() or [type(error).__name__]  # the last line of what Ray shows
            remedy = "mend what ended them, and --resume goes on"
            raise Unfinished(f"workers: must start, got {self._num_failed} that died ({why[:300]}); {remedy}")
        self._add()

    def first(self) -> Any:
        """The handle of one that has started; waits until none is starting, which would disturb what it measures.

        Raises:
            Unfinished: they die instead.
        """
        while len(self.started) < max(1, self.manager.num_live_actors):
            self.manager.next(timeout=1)
        return self.manager._live_actors_to_ray_actors_resources[self.started[0]][0]

    def replace_first(self) -> None:
        """Takes another worker for the one that :meth:`first` gives, which has died."""
        self.manager.remove_actor(self.started.pop(0), kill=True)
        self._add()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        leave(self._end)

    def _end(self) -> None:
        for actor, _ in self.manager._live_actors_to_ray_actors_resources.values():
            ray.kill(actor)
        self._groups.clear()  # type: ignore[no-untyped-call]


class RecycledGroups(PlacementGroupResourceManager):
    """Hands the placement group of a request that was taken back to the next request alike.

    Tune requests one for every trial that waits, and takes the request back when a worker becomes free. The group
    itself may as well go on waiting for the next trial: a cluster that can grow still sees what is wanted.

    ``expected`` groups are waited for, since the cluster has room for them. Others are told of by a task that runs in
    them when they are there, which takes up one of the processes that Ray keeps for the first actors.
    """

    def __init__(self, update_interval_s: float = 0.1) -> None:
        super().__init__(update_interval_s)
        self._spare: Counter[ResourceRequest] = Counter()
        self._keeps_spares = True
        self.expected = 0

    def request_resources(self, resource_request: ResourceRequest) -> None:
        """Takes a spare group where there is one."""
        if self._spare[resource_request]:
            self._spare[resource_request] -= 1
        elif not self._made_at_once(resource_request):
            super().request_resources(resource_request)

    def _made_at_once(self, request: ResourceRequest) -> bool:
        if not self.expected:
            return False
        group = request.to_placement_group()
        self._pg_to_request[group] = request
        self._request_to_ready_pgs[request].add(group)  # before the wait, which may be interrupted
        if group.wait(timeout_seconds=_AT_ONCE_S):
            self.expected -= 1
            return True
        self.expected = 0  # others use the cluster, too
        self._request_to_ready_pgs[request].remove(group)
        del self._pg_to_request[group]
        ray.util.remove_placement_group(group)
        return False

    def cancel_resource_request(self, resource_request: ResourceRequest) -> None:
        """Makes the request's group a spare one."""
        if self._keeps_spares:
            self._spare[resource_request] += 1
        else:
            super().cancel_resource_request(resource_request)

    def drop_spares(self) -> None:
        """Removes the groups that wait for no request, from now on: no more requests are to come.

        An autoscaler would start nodes for them, and let none go that they are on.
        """
        self._keeps_spares = False
        for request in self._spare.elements():
            super().cancel_resource_request(request)
        self._spare.clear()


_AT_ONCE_S = 1.0
