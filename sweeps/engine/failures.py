"""What Ray says when a trial's process fails, as a status and a reason of one sentence."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray.exceptions
from ray.air.execution._internal.actor_manager import RayActorManager

from analysis.schema import Status
from trainables.meeting import WorkerLost

MAX_FAILURES = 1
"""Times that a trial whose process died goes on in another one, from its last checkpoint: what took the process, such
as another trial's memory, may not come again."""

MAX_NODES = 10
"""Nodes that a trial may lose, or that may lack its precision, one after the other without a new report between them:
more are its own doing, or an autoscaler brings no others."""

_OF_NODE = re.compile(r"\bNodeDiedError\b|\bActorUnavailableError\b|\bits node has died\b|\bactor's node was \w+ed\b")
"""What Ray 2.60 says where a node went away or cannot be reached. An actor that does not answer is unavailable to it
until it has noticed that the node is dead, some 15 s later; of a process that died alone it knows at once."""


class Losses:
    """The processes that a trial has lost, and whether it goes on in another one.

    Spot nodes go away often, which is not the trial's fault: it goes on as long as it gets further between. What the
    trial's own process did is forgiven :data:`MAX_FAILURES` times in all.
    """

    def __init__(self) -> None:
        self._crashes = self._nodes = 0
        self._furthest = 0

    @property
    def are_none(self) -> bool:
        """Whether no process was lost as yet."""
        return not (self._crashes or self._nodes)

    def goes_on(self, error: BaseException, reports: int = 0, node_ids: Iterable[str] = ()) -> bool:
        """Takes note of a loss, and says whether the trial goes on.

        Args:
            error: what ``ray.get`` raised.
            reports: or steps that the trial had come to.
            node_ids: Ray's, of the nodes that it was on; none where that is not known.
        """
        if not is_misplaced(error) and not node_went(error, node_ids):
            self._crashes += 1
            return self._crashes <= MAX_FAILURES
        self._nodes = 1 if reports > self._furthest else self._nodes + 1
        self._furthest = max(reports, self._furthest)
        return self._nodes <= MAX_NODES


def node_went(error: BaseException, node_ids: Iterable[str] = ()) -> bool:
    """Whether a process was lost because its node went away or cannot be reached.

    Args:
        error: what ``ray.get`` raised.
        node_ids: Ray's, of the nodes that the trial was on: the loss of one ends its processes on the others, too.
    """
    if not died(error):
        return False
    said = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(error, ray.exceptions.ObjectLostError) or _OF_NODE.search(f"{type(error).__name__}: {said}"):
        return True
    was_on = set(node_ids)
    return bool(was_on) and not was_on <= {node["NodeID"] for node in ray.nodes() if node["Alive"]}


class Misplaced(RuntimeError):
    """A run came to a device that lacks its precision, or is of another type than its pair, and may go on elsewhere."""


def is_misplaced(error: BaseException) -> bool:
    """Whether an error is :class:`Misplaced`, be it raised in a task."""
    return isinstance(getattr(error, "cause", error), Misplaced)


class MemoryKill(ray.exceptions.RayActorError):
    """Ray's memory monitor ended a trial's process."""


@contextmanager
def survive_memory_kills() -> Iterator[None]:
    """Lets Ray Tune go on where Ray's memory monitor ends a trial.

    Ray 2.60 raises ``OutOfMemoryError`` for it, which is neither of the two errors that Tune's actor manager knows: it
    gives up the whole run. Inside this context the manager is told of a dead actor instead.
    """
    original = RayActorManager._actor_task_failed

    def told_of_a_dead_actor(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, ray.exceptions.OutOfMemoryError):
            exception = MemoryKill(error_msg=str(exception))
        original(self, tracked_actor_task, exception)

    manager: Any = RayActorManager
    manager._actor_task_failed = told_of_a_dead_actor
    try:
        yield
    finally:
        manager._actor_task_failed = original


def died(error: BaseException) -> bool:
    """Whether an error says that a process or its node went away, rather than that code raised."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return isinstance(error.cause, WorkerLost)
    return isinstance(error, ray.exceptions.RayError)


def may_go_on(error: BaseException) -> bool:
    """Whether what ended a run says nothing of its code: it may go on in another process, or elsewhere."""
    return died(error) or is_misplaced(error)


def failure(error: BaseException) -> tuple[Status, str]:
    """How a trial ended whose process did not live to report it.

    Args:
        error: what ``ray.get`` raised.

    Returns:
        ``out_of_memory`` where Ray's memory monitor ended the process, ``errored`` where code raised, ``lost`` where
        process or node went away by themselves, ``unsupported`` where no device had its precision; and the reason.
    """
    if is_misplaced(error):
        return "unsupported", str(getattr(error, "cause", error))
    text = " ".join(str(error).split())
    if isinstance(error, MemoryKill | ray.exceptions.OutOfMemoryError):
        usage = re.search(r"was ([\d.]+GB used / [\d.]+GB limit)", text)
        detail = usage.group(1) if usage else text[:200]
        return "out_of_memory", f"Ray ended the process because its node ran low on memory ({detail})"
    if isinstance(error, ray.exceptions.RayTaskError):
        cause = error.cause if isinstance(error.cause, BaseException) else error
        if isinstance(cause, WorkerLost):
            why = " ".join(str(cause).split())[:500]
            return ("out_of_memory" if ray.exceptions.OutOfMemoryError.__name__ in why else "lost"), why
        return "errored", f"{type(cause).__name__}: {' '.join(str(cause).split())[:500]}"
    if isinstance(error, ray.exceptions.RayError):
        return "lost", f"the trial's process or node went away: {text[:300]}"
    return "errored", f"{type(error).__name__}: {text[:500]}"
