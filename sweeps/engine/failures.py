"""What Ray says when a trial's process fails, as a status and a reason of one sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray.exceptions
from ray.air.execution._internal.actor_manager import RayActorManager

from analysis.schema import Status
from trainables.meeting import WorkerLost

MAX_FAILURES = 1
"""Times that a trial whose process died goes on in another one, from its last checkpoint: whatever took the process,
a node that went away or another trial's memory, may not come again."""


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


def failure(error: BaseException) -> tuple[Status, str]:
    """How a trial ended whose process did not live to report it.

    Args:
        error: what ``ray.get`` raised.

    Returns:
        ``out_of_memory`` where Ray's memory monitor ended the process, ``errored`` where code raised, ``lost`` where
        process or node went away by themselves; and the reason.
    """
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
