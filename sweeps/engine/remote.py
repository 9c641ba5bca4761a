"""Generators that run on workers of the cluster and stream what they yield."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

from sweeps.engine.cluster import Resources
from sweeps.engine.device_types import ruling_out
from sweeps.engine.idle import LOOK_EVERY_S, Idle
from sweeps.engine.leaving import leave
from sweeps.engine.progress import Progress

_OF_GROUP = ("resources", "label_selector", "strategy")
"""Options that say where the workers of a trial run: those of its placement group, where it has one."""


class Streams:
    """Tasks that run a generator function, never retried: a trial that failed must be seen to have failed.

    They end with the context. Where the driver leaves early, they would go on to their end on a Ray that outlives it.

    Args:
        function: yields plain data.
        options: of the task, such as ``num_cpus``; of each worker, where it has several.
        num_workers: of each trial. Several have a placement group of their own, in whose first bundle the function runs
            and starts the others.
    """

    def __init__(
        self, function: Callable[..., Iterator[Any]], options: Mapping[str, Any], num_workers: int = 1
    ) -> None:
        self._function, self._options, self._num_workers = function, options, num_workers
        self._running: dict[Any, Any] = {}
        self._ready()

    def _ready(self) -> None:
        import ray

        remote: Any = ray.remote  # its overloads do not describe options that are only known when it runs
        options = self._options
        self._group: dict[str, Any] = {}
        if self._num_workers > 1:  # the group says where its tasks run
            self._group = group_of(options, self._num_workers)
            options = {name: value for name, value in options.items() if name not in _OF_GROUP}
        self._task = remote(num_returns="streaming", max_retries=0, **options)(self._function)

    def keep_off(self, node_ids: Iterable[str]) -> None:
        """Has what starts from now on run on other nodes than some, by Ray's ids."""
        self._options = ruling_out(node_ids, self._options)
        self._ready()

    def start(self, *args: Any) -> Any:
        """Starts a task, and gives an iterator of object references."""
        group, task = None, self._task
        if self._group:
            from ray.util import placement_group
            from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

            group = placement_group(**self._group)
            strategy = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
            task = task.options(scheduling_strategy=strategy)
        stream = task.remote(*args)
        self._running[stream] = group
        return stream

    def each(self, idle: Idle, *args: Any) -> Iterator[Any]:
        """Starts a task, and gives what it yields; it runs once it has yielded something."""
        import ray

        stream, is_busy = self.start(*args), False
        while True:
            if ray.wait([stream], timeout=LOOK_EVERY_S)[0]:
                item = next(stream, None)
                if item is None:
                    return
                is_busy = True
                yield ray.get(item)
            idle.look(is_busy)

    def ended(self, stream: Any) -> None:
        """Gives back what a task had reserved; to be called when it has yielded its last, or failed."""
        group = self._running.pop(stream)
        if group is not None:
            from ray.util import remove_placement_group

            remove_placement_group(group)

    def __enter__(self) -> "Streams":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        leave(lambda: self._end(kind is not None))

    def _end(self, early: bool) -> None:
        import ray

        for stream in list(self._running):
            if early:
                ray.cancel(stream, force=True)
            self.ended(stream)


def await_room(resources: Resources, progress: Progress) -> None:
    """Waits until there is room for a trial somewhere: an autoscaler's nodes come for what is asked of them."""
    with Streams(_once, resources.per_worker, resources.num_workers) as streams:
        for _ in streams.each(Idle(progress, resources.per_worker, resources.num_workers)):
            pass


def _once() -> Iterator[None]:
    yield


def group_of(options: Mapping[str, Any], num_workers: int) -> dict[str, Any]:
    """The arguments of a placement group for the workers of a trial: as many bundles, on one node where they fit.

    Args:
        options: of each worker's task: ``num_cpus``, ``num_gpus``, what may keep it to some of the nodes, and a
            ``strategy`` where it may not be that of the default.
        num_workers: at least 1.
    """
    bundle = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], **options.get("resources", {})}
    group: dict[str, Any] = {"bundles": [bundle] * num_workers}
    if "strategy" in options:
        group["strategy"] = options["strategy"]
    if "label_selector" in options:
        group["bundle_label_selector"] = [options["label_selector"]] * num_workers
    return group
