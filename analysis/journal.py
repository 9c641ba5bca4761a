"""Reading a sweep's folder into plain records; the only part of the analysis that knows the files."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO, NoReturn

import pyarrow as pa

from analysis.remote import below, fetch, is_url, local_copy
from analysis.reports import concat, read_plain, table_of
from analysis.schema import JOURNAL_DIR, SCHEMA_VERSION, SWEEP_FILE, refuse

Record = dict[str, Any]

BLOCK_BYTES = 2 << 20
"""What is read at a time: little enough that the memory of one block serves the next."""


@dataclass
class Journal:
    """A sweep's records.

    Args:
        folder: the sweep's folder; of one in an object store, its copy here.
        sweep: its declaration, as resolved.
        trials: trial_id -> the trial's columns, later lines merged over earlier ones.
        reports: a table of every report, in the order written, as `analysis.reports` makes it.
        timings: (block_id, device) -> timing record, the last one written.
        run_s: seconds that probe and search took, over all processes, as last written.
        spent_usd: what they cost at most, likewise; 0 where that is not known.
        url: of a sweep in an object store.
    """

    folder: Path
    sweep: Record
    trials: dict[str, Record] = field(default_factory=dict)
    reports: pa.Table = field(default_factory=lambda: concat([]))
    timings: dict[tuple[Any, Any], Record] = field(default_factory=dict)
    run_s: float = 0.0
    spent_usd: float = 0.0
    url: str | None = None

    def locate(self, name: str) -> str:
        """The path or URL of one of the sweep's files.

        Args:
            name: relative to its folder.
        """
        return str(self.folder / name) if self.url is None else below(self.url, name)

    @property
    def run_name(self) -> str:
        """The run's name: the value of the column ``sweep``."""
        return str(self.sweep["run_name"])

    def add(self, record: Record) -> None:
        """Add one line's record; one of an unknown kind is ignored, so that older readers survive new ones."""
        kind = record["kind"]
        if kind == "trial":
            before = self.trials.setdefault(record["trial_id"], {})
            again = _cost_of_both(record, before) if before and record.get("stage") == "probe" else {}
            before.update(record | again)
        elif kind == "timing":
            key = (record["block_id"], record.get("device"))
            self.timings[key] = record | _cost_of_both(record, self.timings.get(key))
        elif kind == "spent":
            self.run_s = max(self.run_s, record["run_s"])
            self.spent_usd = max(self.spent_usd, record.get("usd") or 0.0)


def _cost_of_both(record: Record, before: Record | None) -> Record:
    """What a block that was timed again, or a precision that was probed again, cost; unknown where one of both is."""
    parts = [each.get("cost_usd") for each in (record, before) if each is not None]
    return {"cost_usd": None if None in parts else sum(parts)}


def read_journal(path: str | os.PathLike[str]) -> Journal:
    """A sweep's declaration and records.

    Args:
        path: the sweep's folder, or its URL in an object store.

    Raises:
        ResultsError: the folder holds no results, or results that this version cannot read.
    """
    text = os.fspath(path)
    url = text if is_url(text) else None
    folder = _local(text) if url is None else local_copy(url)
    if url is not None:
        fetch(url, folder)
    journal = Journal(folder, _read_sweep(folder), url=url)
    reports = []
    for file in sorted((folder / JOURNAL_DIR).glob("*.jsonl"), key=_write_order):
        records, table = _read_file(file)
        for record in records:
            journal.add(record)
        reports.append(table)
    journal.reports = concat(reports)
    return journal


def _local(text: str) -> Path:
    if not text or not text.isprintable():
        refuse("results", "must name a folder", text, f"pass a sweep's folder, such as {_EXAMPLE}")
    return Path(os.path.expanduser(text))


def _read_sweep(folder: Path) -> Record:
    file = folder / SWEEP_FILE
    try:
        sweep = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        _refuse_folder(folder)
    except OSError as error:
        refuse(str(file), "must be a readable file", error.strerror, "restore the file as written")
    except (ValueError, RecursionError) as error:
        refuse(str(file), "must be valid JSON", str(error), "it is damaged or was not written by a sweep")
    if not isinstance(sweep, dict):
        refuse(str(file), "must be a JSON object", type(sweep).__name__, "it was not written by a sweep")
    _check_version(file, sweep.get("schema"))
    sweep.setdefault("run_name", folder.resolve().name)
    for key, (holds, condition) in _DECLARED.items():
        if not holds(sweep.get(key)):
            refuse(f"{file}, {key}", f"must be {condition}", sweep.get(key), "restore the file as written")
    return sweep


def _is_confirm(value: object) -> bool:
    known = ("target_speedup", "margin")
    return value is None or (isinstance(value, dict) and _are_numbers([value.get(name) for name in known]))


def _are_targets(value: object) -> bool:
    return value is None or (isinstance(value, dict) and _are_numbers(list(value.values())))


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


_DECLARED: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "run_name": (lambda value: isinstance(value, str), "a name"),
    "metric": (lambda value: isinstance(value, str), "a name"),
    "precisions": (_are_names, "a list of names"),
    "baselines": (_are_names, "a list of names"),
    "mode": (lambda value: value in ("max", "min"), "max or min"),
    "space": (lambda value: value is None or isinstance(value, dict), "an object"),
    "stop_at": (_are_targets, "an object with numbers, or null"),
    "confirm": (_is_confirm, "an object with numbers, or null"),
}
"""What the analysis reads of a sweep's declaration, and what it has to be."""


def _check_version(file: Path, version: object) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        refuse(f"{file}, schema", "must be a whole number from 1", version, "it was not written by a sweep")
    if version > SCHEMA_VERSION:
        refuse(f"{file}, schema", f"must be at most {SCHEMA_VERSION}", version, "a newer ampsweep wrote it: upgrade")


_EXAMPLE = "runs/digits-20261123-101500"


def _refuse_folder(folder: Path) -> NoReturn:
    why, remedy = "no such folder", f"pass a sweep's folder, such as {_EXAMPLE}"
    if folder.is_dir():
        runs = sorted(file.parent for file in folder.glob(f"*/{SWEEP_FILE}"))
        why = f"it has no {SWEEP_FILE}" if any(folder.iterdir()) else "it is empty"
        if runs:
            why, remedy = f"it holds {len(runs)} of them", f"pass one, such as {runs[-1]}"
    elif folder.exists():
        why, remedy = "it is no folder", f"pass the one that holds {SWEEP_FILE}"
    refuse("results", f"must be the folder of a sweep ({why})", str(folder), remedy)


def _write_order(file: Path) -> tuple[str, int, str]:
    """Writers by name, which starts with the time they started; a writer's segments by number, so that 10 follows 9."""
    writer, _, sequence = file.stem.rpartition("-")
    return (writer, int(sequence), "") if sequence.isdecimal() else (file.stem, 0, file.name)


def _read_file(file: Path) -> tuple[list[Record], pa.Table]:
    """A file's records but the reports, and the reports."""
    try:
        return _read_as_written(file)
    except OSError as error:
        refuse(str(file), "must be a readable file", error.strerror, "restore it or delete it")
    except (ValueError, RecursionError, pa.ArrowException):
        records = _read_each(file)
        reports = [record for record in records if record["kind"] == "report"]
        return [record for record in records if record["kind"] != "report"], table_of(reports)


def _read_as_written(file: Path) -> tuple[list[Record], pa.Table]:
    """The fast way, which asks that all lines are as the engine writes them; ``ValueError`` where they are not."""
    records: list[Record] = []
    reports = []
    with file.open("rb") as stream:
        for lines, table in read_plain(_blocks(stream)):
            records += _parse(lines)
            reports.append(table)
    return records, concat(reports)


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    """The lines in blocks, without a last one that a crash cut short."""
    while block := stream.read(BLOCK_BYTES) + stream.readline():
        end = block.rfind(b"\n") + 1
        yield block if _record(block[end:]) else block[:end]


def _parse(lines: list[bytes]) -> list[Record]:
    records: list[Record] = json.loads(b"[" + b",".join(lines) + b"]")
    if len(records) != len(lines) or not all(_is_record(record) and record["kind"] != "report" for record in records):
        raise ValueError("a line is not a record, or a report in another form")
    return records


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
            refuse(f"{file}:{number}", "must be a record of the journal", text, "restore the line or delete it")
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
        is_named = type(record.get("trial_id")) is str and isinstance(record.get("config") or {}, dict)
        return is_named and (record.get("stage") != "probe" or _are_numbers([record.get("cost_usd")]))
    if kind == "spent":
        return type(record.get("run_s")) in (int, float) and _are_numbers([record.get("usd")])
    return _is_timing(record) if kind == "timing" else type(kind) is str


def _is_timing(record: Record) -> bool:
    arms = record.get("arms") or []
    known = isinstance(record.get("block_id"), str) and type(record.get("device")) in (str, NoneType)
    if not known or not _are_numbers([record.get("batch_size"), record.get("cost_usd")]) or not isinstance(arms, list):
        return False
    return all(isinstance(arm, dict) and _are_numbers(arm.get("window_ms") or []) for arm in arms)


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float, NoneType) for value in values)
