"""The journal: every fact of a sweep as a line of JSON, flushed as it happens; the driver is its only writer."""

import datetime
import fcntl
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from analysis.schema import JOURNAL_DIR, SWEEP_FILE, Kind
from sweeps.search.checks import refuse

LOCK_FILE = "lock"

SYNC_EVERY_S = 5.0
"""What is flushed survives the driver's death at once, a power cut after at most that many seconds."""


class Journal:
    """Appends to ``<folder>/journal/<writer>-0.jsonl``, and keeps other drivers out of the folder.

    Args:
        folder: of the run; made if need be.

    ``only_probed`` says whether nothing but the probe has been recorded by this driver.

    Raises:
        SweepError: the folder cannot be written, or another driver is writing it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
        self._file: TextIO | None = None
        self._synced_s = time.monotonic()
        self.only_probed = True
        try:
            (folder / JOURNAL_DIR).mkdir(parents=True, exist_ok=True)
            self._lock = (folder / LOCK_FILE).open("a")
        except OSError as error:
            refuse(
                "storage", f"must be a folder that can be written ({error.strerror})", str(folder), "name another one"
            )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            refuse(
                "run_name", "must not be in use by another driver", folder.name, "wait for it, or choose another name"
            )

    def write(self, kind: Kind, row: Mapping[str, Any]) -> None:
        """Appends one line; numbers that are not finite become null, unknown."""
        self.only_probed = self.only_probed and kind == "trial" and row.get("stage") == "probe"
        finite = {key: None if is_unknown(value) else value for key, value in row.items()}
        line = json.dumps({"kind": kind, **finite}, default=str, allow_nan=False)
        if self._file is None:
            self._file = (self.folder / JOURNAL_DIR / f"{self._writer}-0.jsonl").open("a", encoding="utf-8")
        self._file.write(line + "\n")
        self._file.flush()
        if time.monotonic() - self._synced_s >= SYNC_EVERY_S:
            self._sync()

    def _sync(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
        self._synced_s = time.monotonic()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            self._sync()
            self._file.close()
        self._lock.close()  # the lock goes with it, as it does when the process dies


def is_unknown(value: Any) -> bool:
    """Whether a value is a number that says nothing."""
    return isinstance(value, float) and not math.isfinite(value)


def write_declaration(folder: Path, declaration: Mapping[str, Any]) -> None:
    """Writes ``sweep.json`` whole or not at all."""
    temporary = folder / f"{SWEEP_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(declaration, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(temporary, folder / SWEEP_FILE)
