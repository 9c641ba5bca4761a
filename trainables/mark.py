"""How far a tracked run has come, and its files, so that it can go on in another process and on another machine."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainables.storage import Url
from trainables.tracking import RESOURCES, TrackedRun

OTHERS_S = 30.0
"""How long a run waits for another process that is still at work on it."""

LARGEST_MARK = 2**20
"""Bytes."""

FOLDER = "tracking"
"""Of the marks, in the sweep's."""


class Mark:
    """Which reports of a run a tracker has had, so that a run that goes on elsewhere sends none of them twice.

    One process at a time has a run's mark: where a trial goes on elsewhere, the process that it had before may still be
    at work on what it was sent. A machine that does not see the folder has the mark that the object store was given at
    the end of the run there; without one, a resumed run may have some reports twice.

    Args:
        tracker: its name.
        run: the run; with other hyperparameters, as after a copy from another trial, all its reports are new.
    """

    def __init__(self, tracker: str, run: TrackedRun) -> None:
        told = {name: value for name, value in run.config.items() if name not in RESOURCES}
        self._config = json.loads(json.dumps(told, default=str))
        self._step, self._file = -1, None
        self._path = Path(run.folder) / FOLDER / f"{run.run_id}.{tracker}.json"
        with contextlib.suppress(OSError):
            self._file = locked(self._path)
            self._take_up(os.pread(self._file, LARGEST_MARK, 0))
        if run.store is not None:
            with contextlib.suppress(OSError, ValueError):
                self._take_up((Url(run.store) / FOLDER / self._path.name).read())

    def _take_up(self, content: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            kept = json.loads(content)
            if kept["config"] == self._config:
                self._step = max(self._step, int(kept["step"]))

    def is_new(self, row: dict[str, Any]) -> bool:
        """Whether a report is further than all that the tracker has had."""
        return bool(row["step"] > self._step)

    def keep(self, row: dict[str, Any]) -> None:
        """Takes note that the tracker has a report."""
        self._step = row["step"]
        if self._file is not None:
            told = json.dumps({"step": self._step, "config": self._config}).encode()
            with contextlib.suppress(OSError):  # a full disk costs rows that are sent twice, no more
                os.pwrite(self._file, told, 0)
                os.ftruncate(self._file, len(told))

    def files(self) -> list[Path]:
        """The mark's own, where there is one."""
        return [] if self._file is None else [self._path]

    def release(self) -> None:
        """Lets another process have the run."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def locked(path: Path) -> int:
    """A file, made if need be, that one process at a time has open; others are waited for, but not for ever.

    Raises:
        OSError: it cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + OTHERS_S
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        time.sleep(0.1)
    return file


def copy_up(files: Iterable[Path], folder: str, store: str) -> None:
    """Copies files to where they would lie in an object store; those outside the folder stay where the user wants them.

    Args:
        files: on this disk.
        folder: of the sweep's run on this disk.
        store: its URL.

    Raises:
        OSError, ValueError: a file cannot be read, or the store not be written.
    """
    for file in files:
        if file.is_relative_to(folder):
            with file.open("rb") as content:
                (Url(store) / file.relative_to(folder).as_posix()).write(content)
