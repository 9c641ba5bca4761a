"""The journal: every fact of a sweep as a line of JSON, flushed as it happens; the driver is its only writer."""

import contextlib
import datetime
import errno
import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TextIO

from analysis.schema import JOURNAL_DIR, SWEEP_FILE, Kind
from sweeps.search.checks import Unfinished, refuse

LOCK_FILE = "lock"

SYNC_EVERY_S = 5.0
"""What is flushed survives the driver's death at once, a power cut after at most that many seconds."""


class Journal:
    """Appends to ``<folder>/journal/<writer>-0.jsonl``, and keeps other drivers out of the folder.

    Args:
        folder: of the run; made if need be.

    ``only_probed`` says whether nothing but the probe has been recorded by this driver, ``is_taken_back`` whether it
    has begun the run and taken it back.

    Raises:
        SweepError: the folder cannot be written, or another driver is writing it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = ""
        self._file: TextIO | None = None
        self._synced_s = time.monotonic()
        self.only_probed = True
        self.is_taken_back = False
        self._missing: list[Path] = []
        self._made: set[str] = set()
        try:
            self._missing = [path for path in (folder, *folder.parents) if not path.exists()]
            self._made = {name for name in (JOURNAL_DIR, LOCK_FILE) if not (folder / name).exists()}
            (folder / JOURNAL_DIR).mkdir(parents=True, exist_ok=True)
            self._lock = (folder / LOCK_FILE).open("a")
        except OSError as error:
            self._remove(self._made)
            refuse_storage(folder, error)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            refuse(
                "run_name", "must not be in use by another driver", folder.name, "wait for it, or choose another name"
            )
        except OSError as error:  # as of a Lustre that is mounted without locks
            self._lock.close()
            self._remove(self._made)
            remedy = "name a folder of another file system"
            refuse("storage", f"must be a folder whose files can be locked ({error.strerror})", str(folder), remedy)

        # Only now does nobody else write here; until then another driver may have begun a run, and even ended it.
        if any((folder / JOURNAL_DIR).iterdir()):
            self._made.discard(JOURNAL_DIR)
        self._known = set(os.listdir(folder)) - self._made
        self._writer = _writer_after(file.stem.rpartition("-")[0] for file in (folder / JOURNAL_DIR).glob("*.jsonl"))

    @property
    def is_used(self) -> bool:
        """Whether the folder is that of a run."""
        return (self.folder / SWEEP_FILE).exists() or any((self.folder / JOURNAL_DIR).iterdir())

    def write(self, kind: Kind, row: Mapping[str, Any]) -> None:
        """Appends one line; numbers that are not finite become null, unknown."""
        self.only_probed = self.only_probed and (kind == "spent" or (kind == "trial" and row.get("stage") == "probe"))
        finite = {key: None if is_unknown(value) else value for key, value in row.items()}
        line = json.dumps({"kind": kind, **finite}, default=str, allow_nan=False)
        with self.writing():
            self._append(line + "\n")

    def take_back(self) -> None:
        """Removes what this driver made, of a run that ended before its first trial: its name is free again."""
        with contextlib.suppress(OSError):  # or somebody else has deleted it
            if self._file is not None:  # NFS keeps what is open, and with it the folder
                self._file.close()
                self._file = None
            self._remove(set(os.listdir(self.folder)) - self._known)
        self.is_taken_back = not (self.folder / SWEEP_FILE).exists()

    def _remove(self, names: Collection[str]) -> None:
        for path in (self.folder / name for name in names):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    path.unlink()
        with contextlib.suppress(OSError):  # another driver may have begun in one of them
            for folder in self._missing:
                folder.rmdir()

    def _append(self, line: str) -> None:
        if self._file is None:
            self._file = (self.folder / JOURNAL_DIR / f"{self._writer}-0.jsonl").open("a", encoding="utf-8")
        self._file.write(line)
        self._file.flush()
        if time.monotonic() - self._synced_s >= SYNC_EVERY_S:
            self._sync()
            if not os.fstat(self._file.fileno()).st_nlink:
                raise FileNotFoundError(errno.ENOENT, "it was deleted")

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Has a storage that fails within the ``with`` end the run.

        Raises:
            Unfinished: it failed.
        """
        try:
            yield
        except OSError as error:
            kept = "what was measured so far is kept, --resume goes on with it"
            raise Unfinished(f"storage: {self.folder} can no longer be written ({error.strerror}); {kept}") from error

    def _sync(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
        self._synced_s = time.monotonic()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError) if error is not None else self.writing():
                self._sync()
                self._file.close()
        self._lock.close()  # the lock goes with it, as it does when the process dies


def _writer_after(before: Iterable[str]) -> str:
    """A name for what this driver writes, by which it is read after all others, whatever their clocks said."""
    last, now = max(before, default=""), f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
    return now if now > last else f"{last}-{os.getpid()}"


def is_unknown(value: Any) -> bool:
    """Whether a value is a number that says nothing."""
    return isinstance(value, float) and not math.isfinite(value)


def write_declaration(folder: Path, declaration: Mapping[str, Any]) -> None:
    """Writes ``sweep.json`` whole or not at all.

    Raises:
        SweepError: the folder cannot be written.
    """
    temporary = folder / f"{SWEEP_FILE}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(declaration, indent=2, default=str) + "\n", encoding="utf-8")
        os.replace(temporary, folder / SWEEP_FILE)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        refuse_storage(folder, error)


def refuse_storage(folder: Path, error: OSError) -> NoReturn:
    """Raises the error for a folder of results that cannot be written."""
    remedy = "see its rights and the room there, or name another one"
    refuse("storage", f"must be a folder that can be written ({error.strerror})", str(folder), remedy)
