"""Reading a sweep's folder into plain records; the only part of the analysis that knows the files."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import pyarrow as pa

from analysis.reports import concat, read_plain, table_of
from analysis.schema import JOURNAL_DIR, SCHEMA_VERSION, SWEEP_FILE, ResultsError

Record = dict[str, Any]


@dataclass
class Journal:
    """A sweep's records.

    Args:
        folder: the sweep's folder.
        sweep: its declaration, as resolved.
        trials: trial_id -> the trial's columns, later lines merged over earlier ones.
        reports: a table of every report, in the order written, as `analysis.reports` makes it.
        timings: (block_id, device) -> timing record, the last one written.
    """

    folder: Path
    sweep: Record
    trials: dict[str, Record] = field(default_factory=dict)
    reports: pa.Table = field(default_factory=lambda: concat([]))
    timings: dict[tuple[Any, Any], Record] = field(default_factory=dict)

    @property
    def run_name(self) -> str:
        """The run's name: the value of the column ``sweep``."""
        return str(self.sweep["run_name"])

    def add(self, record: Record) -> None:
        """Add one line's record; one of an unknown kind is ignored, so that older readers survive new ones."""
        kind = record["kind"]
        if kind == "trial":
            self.trials.setdefault(record["trial_id"], {}).update(record)
        elif kind == "timing":
            self.timings[record["block_id"], record.get("device")] = record


def read_journal(path: str | os.PathLike[str]) -> Journal:
    """A sweep's declaration and records.

    Args:
        path: the sweep's folder on a local disk.

    Raises:
        ResultsError: the folder holds no results, or results that this version cannot read.
    """
    folder = _local(path)
    journal = Journal(folder, _read_sweep(folder))
    reports = []
    for file in sorted((folder / JOURNAL_DIR).glob("*.jsonl"), key=_write_order):
        records, table = _read_file(file)
        for record in records:
            journal.add(record)
        reports.append(table)
    journal.reports = concat(reports)
    return journal


def _local(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    if re.match(r"[a-z][a-z0-9+.-]+://", text):
        raise ResultsError(f"{text}: only local folders can be loaded in this version; copy the folder here first")
    return Path(text)


def _read_sweep(folder: Path) -> Record:
    file = folder / SWEEP_FILE
    try:
        sweep = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ResultsError(_not_results(folder)) from None
    except ValueError as error:
        raise ResultsError(f"{file}: not valid JSON ({error}); it is damaged or was not written by a sweep") from None
    if not isinstance(sweep, dict):
        raise ResultsError(f"{file}: expected a JSON object, got {type(sweep).__name__}; it was not written by a sweep")
    _check_version(file, sweep.get("schema"))
    sweep.setdefault("run_name", folder.resolve().name)
    if not isinstance(sweep.get("metric"), str):
        raise ResultsError(f"{file}: metric is {sweep.get('metric')!r}; expected a name; restore the file as written")
    for key in ("precisions", "baselines"):
        if not isinstance(sweep.get(key), list):
            raise ResultsError(f"{file}: {key} is {sweep.get(key)!r}; expected a list; restore the file as written")
    if sweep.get("mode") not in ("max", "min"):
        raise ResultsError(f"{file}: mode is {sweep.get('mode')!r}; expected max or min; restore the file as written")
    return sweep


def _check_version(file: Path, version: object) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ResultsError(f"{file}: schema is {version!r}; expected an integer from 1; it was not written by a sweep")
    if version > SCHEMA_VERSION:
        raise ResultsError(
            f"{file}: results are of schema {version}, and this ampsweep reads up to {SCHEMA_VERSION}; upgrade ampsweep"
        )


def _not_results(folder: Path) -> str:
    if not folder.exists():
        return f"{folder}: no such folder; pass a sweep's folder, such as runs/digits-20261123-101500"
    if not folder.is_dir():
        return f"{folder}: not a folder; pass the sweep's folder, the one that holds {SWEEP_FILE}"
    runs = sorted(file.parent.name for file in folder.glob(f"*/{SWEEP_FILE}"))
    if runs:
        return f"{folder}: not a sweep's folder, but it holds {len(runs)}; pass one, such as {folder / runs[-1]}"
    empty = "the folder is empty" if not any(folder.iterdir()) else f"it has no {SWEEP_FILE}"
    return f"{folder}: not a results folder, {empty}; pass a sweep's folder, such as runs/digits-20261123-101500"


def _write_order(file: Path) -> tuple[str, int, str]:
    """Writers by name, which starts with the time they started; a writer's segments by number, so that 10 follows 9."""
    writer, _, sequence = file.stem.rpartition("-")
    return (writer, int(sequence), "") if sequence.isdecimal() else (file.stem, 0, file.name)


def _read_file(file: Path) -> tuple[list[Record], pa.Table]:
    """A file's records but the reports, and the reports."""
    try:
        return _read_as_written(file)
    except (ValueError, RecursionError, pa.ArrowException):
        records = _read_each(file)
        reports = [record for record in records if record["kind"] == "report"]
        return [record for record in records if record["kind"] != "report"], table_of(reports)


def _read_as_written(file: Path) -> tuple[list[Record], pa.Table]:
    """The fast way, which asks that all lines are as the engine writes them; ``ValueError`` where they are not."""
    lines, reports = read_plain(file)
    if lines and not lines[-1].endswith(b"\n") and _record(lines[-1]) is None:
        lines.pop()  # a crash cut it short
    records: list[Record] = json.loads(b"[" + b",".join(lines) + b"]")
    if len(records) != len(lines) or not all(_is_record(record) and record["kind"] != "report" for record in records):
        raise ValueError("a line is not a record, or a report in another form")
    return records, reports


def _read_each(file: Path) -> list[Record]:
    """The slow way, to name the line that is wrong and to skip blank ones."""
    lines = file.read_bytes().split(b"\n")
    if _record(lines[-1]) is None:
        lines.pop()  # nothing, or what a crash cut short
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = _record(line)
        if record is None:
            text = line[:60].decode(errors="replace")
            raise ResultsError(f"{file}:{number}: not a record of the journal: {text!r}; restore the line or delete it")
        records.append(record)
    return records


def _record(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if _is_record(record) else None


def _is_record(record: object) -> bool:
    if type(record) is not dict:
        return False
    kind = record.get("kind")
    if kind == "report":
        return type(record.get("trial_id")) is str
    if kind == "trial":
        return type(record.get("trial_id")) is str and isinstance(record.get("config") or {}, dict)
    return _is_timing(record) if kind == "timing" else type(kind) is str


def _is_timing(record: Record) -> bool:
    arms = record.get("arms") or []
    known = isinstance(record.get("block_id"), str) and type(record.get("device")) in (str, NoneType)
    if not known or type(record.get("batch_size")) not in (int, float, NoneType) or not isinstance(arms, list):
        return False
    return all(isinstance(arm, dict) and _are_numbers(arm.get("window_ms") or []) for arm in arms)


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float, NoneType) for value in values)
