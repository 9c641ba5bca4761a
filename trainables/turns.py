"""A function that runs only while its caller waits: in a thread of its own, the two taking turns.

What a thread has for itself (autocast, the mode of gradients) stays the function's own; the random generators, which
all threads share, are exchanged at every turn.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch

from trainables.checkpoint import rng_state, set_rng_state

STOP_WAIT_S = 10.0
"""Seconds that a function gets to leave after it was told to; one that runs on is left to end with the process."""


class Stopped(BaseException):
    """Raised inside of the function where it is to end; no ``except Exception`` of its own holds it up."""


class Turns:
    """Runs a function in turns with its caller, who has the first.

    Args:
        function: is to call :meth:`pause` now and then.
        device: whose generators are the function's own while it runs; it begins with those of its caller.
    """

    def __init__(self, function: Callable[[], object], device: torch.device) -> None:
        self._function, self._device = function, device
        self._its, self._ours = threading.Semaphore(0), threading.Semaphore(0)
        self._generators: dict[str, Any] | None = None
        self._error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, args=(torch.get_num_threads(),), daemon=True)
        self.has_ended = False

    def resume(self) -> None:
        """Lets the function run until it pauses or ends.

        Raises:
            BaseException: what it raised.
        """
        before = rng_state(self._device)
        try:
            if self._generators is not None:
                set_rng_state(self._generators, self._device)
            self._let_run()
            self._generators = rng_state(self._device)
        finally:
            set_rng_state(before, self._device)
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _let_run(self) -> None:
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._its.release()
        self._ours.acquire()

    def pause(self) -> None:
        """Gives the turn back; to be called by the function alone.

        Raises:
            Stopped: it is to end.
        """
        if not self._stopped:
            self._ours.release()
            self._its.acquire()
        if self._stopped:
            raise Stopped

    def stop(self) -> None:
        """Has the function end where it paused, as far as it can."""
        if self._thread.ident is None or self.has_ended:
            return
        self._stopped = True
        self._its.release()
        self._thread.join(STOP_WAIT_S)

    def _run(self, num_threads: int) -> None:
        torch.set_num_threads(num_threads)  # OpenMP keeps it for each thread
        try:
            self._function()
        except Stopped:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self.has_ended = True
            del self._function
            self._ours.release()
