"""The processes that probe and search run in: they start, and import PyTorch, before anything is known of the search.

Ray Tune starts workers of its own only for trials, so after the probe, and importing takes longer than the probe.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.air.execution.resources.placement_group import PlacementGroupResourceManager
from ray.air.execution.resources.request import ResourceRequest
from ray.tune import PlacementGroupFactory

from sweeps.engine.cluster import Resources
from sweeps.engine.device_types import ruling_out
from sweeps.engine.failures import MAX_NODES, node_went
from sweeps.engine.leaving import leave
from sweeps.engine.remote import group_of
from sweeps.search.checks import Unfinished
from trainables.adapters.ray_tune import TuneTrial

MOST_FAILED = 3
"""Workers that may die while they start, before the sweep gives up; those that went with their node are not counted,
unless as many as fill the cluster :data:`~sweeps.engine.failures.MAX_NODES` times do before one starts."""


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
        self._placements: dict[str, Mapping[str, Any]] = {}
        self._ruled_out: dict[str, set[str]] = {}
        self._groups = RecycledGroups()
        self._groups.expected = 0 if resources.waits_for else resources.slots
        self.manager = RayActorManager(self._groups)
        self.started: list[TrackedActor] = []
        self._remote = ray.remote(trainable)
        self._num_failed = self._num_gone = 0

    def start(self, count: int) -> None:
        """Has at least that many workers start, without waiting for them."""
        for _ in range(count - self.manager.num_total_actors):
            self._add()
        self.manager.next(timeout=0)

    def keep_to(self, precision: str, placement: Mapping[str, Any]) -> None:
        """Has trials of a precision run on some nodes alone, in workers of their own.

        Args:
            precision: of the ladder.
            placement: options of Ray's tasks that keep them there; none lets them run anywhere.
        """
        if not placement:
            return
        self._placements[precision] = placement
        options = {**self._resources.per_worker, **placement}
        self.own_requests[precision] = PlacementGroupFactory(**group_of(options, self._resources.num_workers))

    def rule_out(self, precision: str, node_ids: Iterable[str]) -> bool:
        """Has further trials of a precision run on other nodes, and says whether there may be any.

        Args:
            precision: which the devices of some nodes do not have.
            node_ids: Ray's, of those nodes.
        """
        ruled_out = self._ruled_out.setdefault(precision, set())
        new = sorted(set(node_ids) - ruled_out)
        ruled_out.update(new)
        able = (node for node in ray.nodes() if node["Alive"] and self._resources.fit_on(node["Resources"]))
        if not self._resources.can_grow and all(node["NodeID"] in ruled_out for node in able):
            return False
        if new:
            self.keep_to(precision, ruling_out(new, self._placements.get(precision, {})))
        return True

    def are_shared_by(self, precisions: Iterable[str]) -> bool:
        """Whether trials of any of some precisions run in workers that are not a precision's own."""
        return any(name not in self.own_requests for name in precisions)

    def want_no_more(self) -> None:
        """Takes back what was asked of the cluster for trials that have found a worker elsewhere."""
        self._groups.drop_spares()

    def _add(self) -> None:
        self.manager.add_actor(self._remote, {}, self.request, on_start=self._has_started, on_error=self._failed)

    def _has_started(self, worker: TrackedActor) -> None:
        self._num_gone = 0
        self.started.append(worker)

    def _failed(self, worker: TrackedActor, error: Exception) -> None:
        with_node = node_went(error)
        self._num_gone, self._num_failed = self._num_gone + with_node, self._num_failed + (not with_node)
        if self._num_failed >= MOST_FAILED or self._num_gone > MAX_NODES * self._resources.slots:
            *_, why = str(error).strip().splitlines() or [type(error).__name__]  # the last line of what Ray shows
            number, remedy = max(self._num_failed, self._num_gone), "mend what ended them, and --resume goes on"
            raise Unfinished(f"workers: must start, got {number} that died ({why[:300]}); {remedy}")
        self._add()

    def first(self, look: Callable[[bool], None] = lambda is_busy: None) -> Any:
        """The handle of one that has started; waits until none is starting, which would disturb what it measures.

        One that has died since, as all on a node do that went away, is replaced.

        Args:
            look: is told, while this waits, whether any has started.

        Raises:
            Unfinished: they die while they start.
        """
        while True:
            while len(self.started) < max(1, self.manager.num_live_actors):
                self.manager.next(timeout=1)
                look(bool(self.started))
            worker = self.manager._live_actors_to_ray_actors_resources[self.started[0]][0]
            try:
                is_there: Any = ray.get(worker.__ray_ready__.remote())
            except ray.exceptions.RayError:
                is_there = False
            if is_there:
                return worker
            self.replace_first()

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
