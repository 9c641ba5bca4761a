"""The workers of a trial as Ray runs them: the first in a placement group's first bundle, the others in its others.

Ray Train's ``TorchTrainer`` starts a controller and all workers anew for every trial (over 20 s each on two cores),
where these go from trial to trial. Only the first one reports; the others do what it does at the same time.
"""

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from trainables.meeting import Meeting, WorkerLost
from trainables.spec import TrialSpec

PATIENCE_S = 20.0
"""How long a worker may take to notice that another one is gone, or to end with the first, before it is ended."""


def settle_worker(num_workers: int) -> None:
    """Readies a process that is to run trials.

    Args:
        num_workers: of each; what several of them need takes as long to import as PyTorch.
    """
    from trainables.memory import settle_process

    if num_workers > 1:
        import torch._dynamo  # noqa: F401 - DistributedDataParallel imports it
    settle_process()


class Helper:
    """One of the other workers of the trials that a first worker runs one after the other.

    Args:
        rank: at least 1.
        num_workers: of each trial.
    """

    def __init__(self, rank: int, num_workers: int) -> None:
        self._rank = rank
        self._trial: Any = None
        self._reports: Any = iter(())
        settle_worker(num_workers)

    def begin(self, spec: dict[str, Any], meeting: Meeting) -> None:
        """Takes the next trial."""
        from trainables.trial import Trial

        self.end()
        self._trial = Trial(TrialSpec.from_dict(spec), replace(meeting, rank=self._rank))
        self._reports = self._trial.reports()

    def step(self) -> None:
        """Trains until the next report."""
        next(self._reports)

    def state(self) -> None:
        """Does its part where the first worker saves the trial."""
        self._trial.state_dict()

    def probe(self, spec: dict[str, Any], precisions: list[str], route: str | None, meeting: Meeting) -> None:
        """Probes; see :func:`trainables.probe.probe`."""
        from trainables.probe import probe

        for _ in probe(TrialSpec.from_dict(spec), precisions, route, replace(meeting, rank=self._rank)):
            pass

    def end(self) -> None:
        """Leaves the trial where it stands."""
        if isinstance(self._reports, Generator):
            self._reports.close()


def node_ids() -> list[str]:
    """Ray's ids of the nodes that the workers of this process' trials run on, this one's first; none without Ray."""
    if not ray.is_initialized():
        return []
    group = ray.util.get_current_placement_group()
    if group is None or group.bundle_count == 1:
        return [ray.get_runtime_context().get_node_id()]
    bundles = ray.util.placement_group_table(group)["bundles_to_node_id"]
    return [bundles[index] for index in sorted(bundles)]


class Crew:
    """The other workers of the trials that this process runs, one for each further bundle of its placement group."""

    def __init__(self) -> None:
        group = ray.util.get_current_placement_group() if ray.is_initialized() else None
        self.num_workers = group.bundle_count if group is not None else 1
        self._group = group
        self.node_ids = node_ids()
        self._helpers = [self._start(rank) for rank in range(1, self.num_workers)]
        self._store: Any = None

    def _start(self, rank: int) -> Any:
        return ray.remote(Helper).options(**in_bundle(self._group, rank)).remote(rank, self.num_workers)

    def meet(self) -> Meeting | None:
        """A new place to meet, as the first worker; ``None`` without others."""
        self._store, meeting = _open(self.num_workers) if self._helpers else (None, None)
        return meeting

    @contextmanager
    def also(self, method: str, *args: Any) -> Iterator[None]:
        """Has the others do something while this worker does the same inside the ``with``.

        Args:
            method: of :class:`Helper`; ``args`` are its arguments.

        Raises:
            WorkerLost: this one lost another of them.
        """
        if not self._helpers:
            yield
            return
        references = [getattr(helper, method).remote(*args) for helper in self._helpers]
        with _together(references) as gone:
            yield
        for index in gone:
            ray.kill(self._helpers[index])
            self._helpers[index] = self._start(index + 1)


def in_bundle(group: PlacementGroup | None, index: int) -> dict[str, Any]:
    """Options of a task or actor that takes a whole bundle of a placement group."""
    assert group is not None  # workers of a trial of several run in one
    bundle = group.bundle_specs[index]
    strategy = PlacementGroupSchedulingStrategy(group, index, placement_group_capture_child_tasks=True)
    return {"num_cpus": bundle.get("CPU", 0), "num_gpus": bundle.get("GPU", 0), "scheduling_strategy": strategy}


@contextmanager
def joined_by(num_workers: int, function: Callable[..., None], *args: Any) -> Iterator[Meeting | None]:
    """Has tasks in the other bundles of this task's placement group do their part as long as the ``with`` lasts.

    Args:
        num_workers: this one included; of 1 there are no others.
        function: called with ``args`` and the worker's :class:`~trainables.meeting.Meeting`.

    Yields:
        this worker's meeting; ``None`` without others.

    Raises:
        WorkerLost: this one lost another of them.
    """
    if num_workers == 1:
        yield None
        return
    store, meeting = _open(num_workers)
    group, remote = ray.util.get_current_placement_group(), ray.remote(max_calls=0, max_retries=0)(function)
    references = [
        remote.options(**in_bundle(group, rank)).remote(*args, replace(meeting, rank=rank))
        for rank in range(1, num_workers)
    ]
    try:
        with _together(references):
            yield meeting
    finally:
        for reference in references:
            ray.cancel(reference, force=True)
        del store


def _open(num_workers: int) -> tuple[Any, Meeting]:
    from trainables.team import open_store

    host = ray.util.get_node_ip_address()
    store = open_store(host)
    return store, Meeting(0, num_workers, host, store.port)


@contextmanager
def _together(references: Sequence[Any]) -> Iterator[list[int]]:
    """Waits until the others have ended, too.

    A worker that waits for one that is gone may not notice, as where a machine lost its power: then Ray does, and this
    process ends. What that costs is what the loss of a worker costs anyway.

    Args:
        references: what the others' calls give.

    Yields:
        a list, to which those are added in the end that went away or did not come to theirs in time.

    Raises:
        WorkerLost: this one lost another; with what Ray knows of it.
    """
    here, gone = threading.Event(), list[int]()

    def end_unless_here(done: Any) -> None:
        if done.exception() is not None and not here.is_set():
            timer = threading.Timer(PATIENCE_S, end_if_still_not_here)
            timer.daemon = True
            timer.start()

    def end_if_still_not_here() -> None:
        if not here.is_set():
            os.kill(os.getpid(), signal.SIGKILL)

    for reference in references:
        reference.future().add_done_callback(end_unless_here)
    try:
        yield gone
    except WorkerLost as error:
        raise WorkerLost(_whereabouts(references, gone) or str(error)) from None
    finally:
        here.set()
    _whereabouts(references, gone)


def _whereabouts(references: Sequence[Any], gone: list[int]) -> str | None:
    """Waits for the others, adds those to ``gone`` that do not come; and what Ray says of the last that died."""
    why = None
    for index, reference in enumerate(references):
        try:
            ray.get(reference, timeout=PATIENCE_S)
        except ray.exceptions.RayTaskError:
            pass  # it failed with the first one
        except ray.exceptions.GetTimeoutError:
            gone.append(index)
        except ray.exceptions.RayError as error:
            gone.append(index)
            why = f"worker {index + 2} of {len(references) + 1} went away: {type(error).__name__}: {error}"
    return why
