"""Leaving Ray where the driver ends early: what ends it may have ended Ray, too."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

LEAVE_S = 5.0
"""What Ray gets to let a driver go."""

_silent = threading.Event()


def arrive() -> None:
    """Begins with a Ray that has left nothing unanswered yet."""
    _silent.clear()


def leave(action: Callable[[], object]) -> bool:
    """Asks Ray for something on the way out, and waits a few seconds at most.

    Where a scheduler tells all processes of a job to end, Ray's go, too. Its calls then wait a minute for the answer of
    a process that has ended, and Ray ends the driver where it stands.

    Args:
        action: calls Ray; what it raises says that there is nothing left to ask for.

    Returns:
        whether Ray answered; once it has not, it is not asked again.
    """
    if _silent.is_set():
        return False
    asking = threading.Thread(target=_try, args=(action,), daemon=True)
    asking.start()
    asking.join(LEAVE_S)
    if asking.is_alive():
        _silent.set()
    return not asking.is_alive()


def _try(action: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        action()


def is_ray_silent() -> bool:
    """Whether Ray has left something unanswered, so that it would not let the process end in good order, either."""
    return _silent.is_set()


def end_own_ray() -> None:
    """Ends the processes of a Ray that this driver started, without asking them."""
    from ray._private import worker

    node: Any = worker._global_node
    if node is not None:
        node.kill_all_processes(check_alive=False, allow_graceful=False)
