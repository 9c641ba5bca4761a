"""Reads back what W&B wrote offline: the records of ``run-*.wandb``, a log in LevelDB's format."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class Run:
    """One file: a run, or the part of it that one process wrote."""

    run_id: str = ""
    name: str = ""
    project: str = ""
    group: str = ""
    stage: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


def records(file: Path) -> Iterator[bytes]:
    data = file.read_bytes()
    if not data:  # W&B's process was ended before it wrote
        return
    assert data[:4] == b":W&B"
    position, whole = HEADER, b""
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:  # too short for a record's head: zeros up to the next block
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        part = data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        whole = part if kind in (FULL, FIRST) else whole + part
        if kind in (FULL, LAST):
            yield whole


def read_run(file: Path) -> Run:
    from wandb.proto import wandb_internal_pb2

    run = Run()
    for data in records(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            told = record.run
            run.run_id, run.name, run.project = told.run_id, told.display_name, told.project
            run.group, run.stage = told.run_group, told.job_type
            run.config |= values(told.config.update)
        elif kind == "config":
            run.config |= values(record.config.update)
        elif kind == "history":
            run.history.append(values(record.history.item))
        elif kind == "summary":
            run.summary |= values(record.summary.update)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    run.config.pop("_wandb", None)
    return run


def values(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def read_runs(folder: Path) -> list[Run]:
    """All runs below a sweep's folder, in the order in which they were begun."""
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_ctime)
    return [read_run(file) for file in files]
