"""The journal: every fact of a sweep as a line of JSON, flushed as it happens; the driver is its only writer."""

import datetime
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from analysis.schema import JOURNAL_DIR, SWEEP_FILE, Kind
from sweeps.search.checks import refuse


class Journal:
    """Appends to ``<folder>/journal/<writer>-<sequence>.jsonl``.

    Args:
        folder: of the run; made if need be.

    Raises:
        SweepError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        writer = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
        try:
            (folder / JOURNAL_DIR).mkdir(parents=True, exist_ok=True)
            self._file = (folder / JOURNAL_DIR / f"{writer}-0.jsonl").open("a", encoding="utf-8")
        except OSError as error:
            refuse(
                "storage", f"must be a folder that can be written ({error.strerror})", str(folder), "name another one"
            )

    def write(self, kind: Kind, row: Mapping[str, Any]) -> None:
        """Appends one line; numbers that are not finite become null, unknown."""
        finite = {key: None if is_unknown(value) else value for key, value in row.items()}
        line = json.dumps({"kind": kind, **finite}, default=str, allow_nan=False)
        self._file.write(line + "\n")
        self._file.flush()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def is_unknown(value: Any) -> bool:
    """Whether a value is a number that says nothing."""
    return isinstance(value, float) and not math.isfinite(value)


def write_declaration(folder: Path, declaration: Mapping[str, Any]) -> None:
    """Writes ``sweep.json`` whole or not at all."""
    temporary = folder / f"{SWEEP_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(declaration, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(temporary, folder / SWEEP_FILE)
