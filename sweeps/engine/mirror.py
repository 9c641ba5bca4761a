"""A run whose results go to an object store: its folder lies on the driver's disk, and is copied there as it grows.

Objects cannot be appended to, so the journal goes there in segments, each written once; readers put them together.
"""

import contextlib
import datetime
import io
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from analysis.remote import fetch
from analysis.schema import EXAMPLES_DIR, JOURNAL_DIR, SWEEP_FILE, ResultsError
from sweeps.engine.journal import LOCK_FILE
from sweeps.search.checks import Unfinished, refuse
from trainables.storage import Url, delete_folder

EVERY_S = 5.0
"""Seconds between two copyings: what a driver that dies takes with it, at most."""

STALE_S = 4 * EVERY_S
"""How long a driver's sign of life may stay the same before it counts as dead."""

LAST_S = 60.0
"""How long a store that fails in the end is tried again: it keeps what the driver's disk may lose with the driver."""


class Mirror:
    """Copies what is new in a run's folder to its URL, every few seconds and at the end, in a thread of its own.

    Args:
        folder: of the run, on this disk; what is in it already is in the store, too.
        url: of the run.
        is_taken_back: says in the end whether the run has never begun, and nothing is to stay of it.
        goes_on: whether the run has been brought here from the store, for this driver to go on with it.

    ``is_whole`` says whether it has ended, and the store has all that is here.

    Raises:
        SweepError: the store does not answer or cannot be written, or another driver is writing there.
    """

    def __init__(
        self, folder: Path, url: Url, is_taken_back: Callable[[], bool] = lambda: False, goes_on: bool = False
    ) -> None:
        self.folder, self.url = folder, url
        self.is_whole = False
        self._is_taken_back = is_taken_back
        self._is_lost = False
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
        self._counts: dict[Path, int] = {}
        self._stopped = threading.Event()
        self._error: OSError | None = None
        self._busy = threading.Lock()
        self._driver = threading.current_thread()
        self._take_lock()
        if goes_on:
            self._bring()
        self._sent: dict[Path, tuple[int, int]] = {file: _stamp(file) for file in self._files()}
        self._lengths = {file: file.stat().st_size for file in self._segments()}
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def __enter__(self) -> "Mirror":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stopped.set()
        try:
            self._thread.join()
            if self._is_taken_back():
                self._delete()
                return
            self.copy()
            if error is None:
                self._try_again()
            failed: Exception | None = self._error
        except KeyboardInterrupt:  # once more: its message would not say where the results are
            failed = OSError("interrupted")
        if self._is_lost:
            remedy = f"it took over from this one, whose last results lie in {self.folder} on {socket.gethostname()}"
            raise Unfinished(f"run_name: must not be in use by another driver, got {self.url.shown!r}; {remedy}")
        if failed is None:
            self.is_whole = True
            self._remove_lock()
        elif error is None or isinstance(error, KeyboardInterrupt | Unfinished):  # which say that --resume goes on
            kept = f"all that was measured lies in {self.folder} on {socket.gethostname()}"
            why = f"{error}; " if isinstance(error, Unfinished) else ""
            raise Unfinished(f"{why}storage: {self.url.shown} can no longer be written ({_words(failed)}); {kept}")

    def _delete(self) -> None:
        """Leaves nothing of the run, unless another driver has begun one of that name at the same moment."""
        with contextlib.suppress(OSError):
            if self._is_own(self._seen()):
                delete_folder(self.url)
        self.is_whole = True

    def _try_again(self) -> None:
        """Copies until the store has all, it has failed for too long, or a signal ends the wait."""
        deadline = time.monotonic() + LAST_S
        with contextlib.suppress(KeyboardInterrupt):  # whose message would not say where the results are
            while self._error is not None and time.monotonic() < deadline:
                time.sleep(EVERY_S)
                self.copy()

    def copy(self) -> None:
        """Copies what is new, unless another driver has taken over; what fails is tried again at the next call."""
        with self._busy:
            try:
                self._is_lost = self._is_lost or not self._is_own(self._seen())
                if self._is_lost:
                    return
                for file in self._files():
                    if file.name != SWEEP_FILE:
                        self._copy_whole(file)
                for file in self._segments():
                    self._copy_tail(file)
                self._copy_whole(self.folder / SWEEP_FILE)  # last: it says how far the run has come
                self._write(LOCK_FILE, self._sign())
                self._error = None
            except OSError as error:
                self._error = error

    def _run(self) -> None:
        while not self._stopped.wait(EVERY_S) and not self._is_lost:
            self.copy()
        heeded = [each for each in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(each))]
        if self._is_lost and heeded and not self._stopped.is_set() and self._driver is threading.main_thread():
            signal.pthread_kill(self._driver.ident or 0, heeded[0])  # whoever slept too long must not go on

    def _is_own(self, lock: bytes | None) -> bool:
        """Whether nobody else has signed the lock."""
        return lock is None or self._owner.encode() in lock

    def _files(self) -> list[Path]:
        """All but the journal and the lock."""
        there = [*self.folder.glob("*"), *(self.folder / EXAMPLES_DIR).glob("*.npy")]
        return sorted(file for file in there if file.is_file() and file.name != LOCK_FILE)

    def _segments(self) -> list[Path]:
        return sorted((self.folder / JOURNAL_DIR).glob("*.jsonl"))

    def _copy_whole(self, file: Path) -> None:
        if not file.exists() or self._sent.get(file) == _stamp(file):
            return
        stamp = _stamp(file)
        self._write(file.relative_to(self.folder).as_posix(), file.read_bytes())
        self._sent[file] = stamp

    def _copy_tail(self, file: Path) -> None:
        """The lines that have been added to a journal, as its next segment."""
        before = self._lengths.get(file, 0)
        with file.open("rb") as journal:
            journal.seek(before)
            lines = journal.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        if not lines:
            return
        writer, number = file.stem.rpartition("-")[0], self._counts.get(file, 0)
        self._write(f"{JOURNAL_DIR}/{writer}-{number}.jsonl", lines)
        self._lengths[file], self._counts[file] = before + len(lines), number + 1

    def _write(self, name: str, content: bytes) -> None:
        target = self.url
        for part in name.split("/"):
            target = target / part
        target.write(io.BytesIO(content))

    def _take_lock(self) -> None:
        try:
            if self._is_in_use():
                remedy = "wait for it, or choose another name"
                refuse("run_name", "must not be in use by another driver", self.url.shown, remedy)
            self._write(LOCK_FILE, self._sign())
        except (OSError, ValueError) as error:
            refuse_store(self.url, error)

    def _bring(self) -> None:
        """Brings what the driver before has written since, until the lock was taken: its last seconds."""
        try:
            fetch(self.url.text, self.folder)
        except ResultsError as error:
            refuse_store(self.url, error)

    def _is_in_use(self) -> bool:
        """Whether another driver gives signs of life; waits for one where there has been any."""
        first = seen = self._seen()
        if seen is not None:
            wait = f"waits up to {STALE_S:g} s to see whether another driver is at work there"
            print(f"storage {self.url.shown} {wait}", flush=True)
        deadline = time.monotonic() + STALE_S
        while seen is not None and seen == first and time.monotonic() < deadline:
            time.sleep(1)
            seen = self._seen()
        return seen is not None and seen != first

    def _seen(self) -> bytes | None:
        try:
            return (self.url / LOCK_FILE).read()
        except FileNotFoundError:
            return None

    def _remove_lock(self) -> None:
        with contextlib.suppress(OSError):  # then the next driver finds it stale
            (self.url / LOCK_FILE).delete()

    def _sign(self) -> bytes:
        now = datetime.datetime.now(datetime.UTC).isoformat()
        return json.dumps({"owner": self._owner, "at": now}).encode()


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def refuse_store(url: Url, error: Exception) -> NoReturn:
    """Raises the error for an object store that cannot be written or read."""
    remedy = "see its name, the rights to it and AWS_ENDPOINT_URL, or name a folder"
    refuse("storage", f"must be a store that can be written ({_words(error)})", url.shown, remedy)
