"""Leaving Ray: what tells the driver to end may have ended Ray, too."""

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LEAVE_S = 3.0
"""What a call gets to return once Ray no longer answers."""


@dataclass
class _Ray:
    """The Ray of this process: where its GCS listens, if that is known, and whether it left something unanswered."""

    address: str = ""
    is_silent: bool = False


_ray = _Ray()


def arrive() -> None:
    """Begins with the Ray that is connected."""
    import ray

    _ray.address, _ray.is_silent = ray.get_runtime_context().gcs_address, False


def leave(action: Callable[[], object]) -> bool:
    """Asks Ray for something on the way out, and waits for as long as Ray is there.

    Where a scheduler tells all processes of a job to end, Ray's go, too. Its calls then wait a minute for the answer of
    a process that has ended, do not heed signals meanwhile, and have Ray end the driver where it stands.

    Args:
        action: calls Ray; what it raises says that there is nothing left to ask for.

    Returns:
        whether it returned; once Ray has left something unanswered, it is not asked again.
    """
    if _ray.is_silent:
        return False
    returned = threading.Event()
    try:
        threading.Thread(target=_try, args=(action, returned), daemon=True).start()
        while not returned.wait(0.5) and _is_there():
            pass
        returned.wait(LEAVE_S)
    finally:  # a signal, too
        _ray.is_silent = not returned.is_set()
    return returned.is_set()


def _try(action: Callable[[], object], returned: threading.Event) -> None:
    with contextlib.suppress(Exception):
        action()
    returned.set()


def _is_there() -> bool:
    host, _, port = _ray.address.rpartition(":")
    if not port:
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True


def is_ray_silent() -> bool:
    """Whether Ray has left something unanswered, so that it would not let the process end in good order, either."""
    return _ray.is_silent


def end_own_ray() -> None:
    """Ends the processes of a Ray that this driver started, of which some may have ended."""
    from ray._private import worker

    node: Any = worker._global_node
    if node is not None:
        node.kill_all_processes(check_alive=False, allow_graceful=True)
