"""The way from a trial's process to the trackers: a process of its own for what may block, hang or die.

A thread would not do. Libraries hold the interpreter's lock while they wait for theirs, and keep a process from ending
until all is uploaded: W&B for as long as 30 minutes. What is sent to another process costs a trial the write into a
pipe, which never blocks; and a process that is left alone ends by itself.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections import deque
from typing import Any

from trainables.tracking import Tracking

MOST_UNSENT = 20_000
"""Messages that are kept for a process that does not read; further reports are dropped, and that is said."""

OF_ONE_RUN = ("WANDB_RUN_ID", "WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_RESUME", "WANDB_SERVICE")
"""Variables that would make all runs one, or have them depend on the W&B that a trial's own process has started."""

PATIENCE_S = 4.9
"""How long the end of a trial may wait for its trackers: 5 s with all that is done beside waiting."""


class Courier:
    """Starts the process and talks to it. Nothing here blocks but :meth:`wait`, nor raises.

    Args:
        tracking: the trackers, and the environment that their libraries read.

    ``is_lost`` says whether the process is gone, ``pid`` is its number once it has said so itself: the one that is
    started here leaves it behind and ends.
    """

    def __init__(self, tracking: Tracking) -> None:
        self.tracking = tracking
        self._unsent: deque[bytes] = deque()
        self._heard = b""
        self._warnings: deque[str] = deque()
        self._last_run = 0
        self._open: set[int] = set()
        self.is_lost = False
        self._process: subprocess.Popen[bytes] | None = None
        self.pid: int | None = None
        environment = {**os.environ, **tracking.environment, "PYTHONPATH": _own_path()}
        for name in OF_ONE_RUN:
            environment.pop(name, None)
        try:
            # Its own session, so that what is sent to this process's group, such as Ctrl-C, does not reach it; and
            # nothing of this process's output, or who reads that would wait for the process as well.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainables.adapters.track", tracking.directory],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            self._say_once(f"no process could be started for it ({error})")
            self.is_lost = True
            return
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)

    def begin(self) -> int:
        """The number of a new run, by which messages name it."""
        self._last_run += 1
        return self._last_run

    def send(self, do: str, run: int, **more: Any) -> None:
        """Sends a message, now or with a later one."""
        if self.is_lost:
            return
        if do == "start":
            self._open.add(run)
        if do != "report" or len(self._unsent) < MOST_UNSENT:
            self._unsent.append(json.dumps({"do": do, "run": run, **more}, default=str).encode() + b"\n")
        else:
            self._say_once("its process does not keep up, and rows are lost")
        self._push()
        self._hear()

    def _push(self) -> None:
        """Writes as much as the pipe takes."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            while self._unsent:
                written = os.write(self._process.stdin.fileno(), self._unsent[0])
                if written < len(self._unsent[0]):
                    self._unsent[0] = self._unsent[0][written:]
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            pass  # the pipe is full: the rest goes with a later message
        except OSError:
            self._lose()

    def _hear(self) -> None:
        """Takes in what the process has answered."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.poll()  # lest it stays as a zombie
        with contextlib.suppress(BlockingIOError):
            while heard := os.read(self._process.stdout.fileno(), 65536):
                self._heard += heard
            self._lose()  # the end of the pipe
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if "warning" in answer:
                self._warnings.append(answer["warning"])
            self.pid = answer.get("pid", self.pid)
            self._open.discard(answer.get("finished"))

    def _lose(self) -> None:
        """Takes note that the process is gone."""
        if self._open:
            self._say_once("its process ended before its time")
        self.is_lost = True
        self._unsent.clear()
        self._open.clear()

    def _say_once(self, what: str) -> None:
        warning = f"{', '.join(self.tracking.trackers)}: {what}"
        if warning not in self._warnings:
            self._warnings.append(warning)

    def warnings(self) -> list[str]:
        """What went wrong since the last call, a sentence each."""
        heard = list(self._warnings)
        self._warnings.clear()
        return heard

    def wait(self, run: int, seconds: float = PATIENCE_S) -> bool:
        """Waits until a run has been finished, and for no longer than that; whether it has."""
        deadline = time.monotonic() + seconds
        while self.is_open(run):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            assert self._process is not None
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            news = select.poll()
            news.register(self._process.stdout, select.POLLIN)
            if self._unsent:
                news.register(self._process.stdin, select.POLLOUT)
            news.poll(left * 1000)
        return True

    def is_open(self, run: int) -> bool:
        """Whether a run has been begun and not been finished, as far as the process has told."""
        if self._open:
            self._push()
            self._hear()
        return run in self._open

    def leave(self) -> None:
        """Lets the process do what it was sent, within its own limit of time, and end."""
        if self._process is not None and self._process.stdin is not None:
            self._push()
            with contextlib.suppress(OSError):
                self._process.stdin.close()


def _own_path() -> str:
    """Where this process finds its modules: Ray extends ``sys.path``, not ``PYTHONPATH``."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)
