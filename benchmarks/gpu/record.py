"""Rows, the file that they are kept in, and the table that shows them."""

import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainables.precision import device_name

GIB = 2**30


@dataclass
class Row:
    """What one arm gave; whatever was not measured is missing.

    Args:
        item: what it belongs to: ``matrix``, a model, ``liar``.
        arm: the precision or format, and how it was run.
        status: ``measured``, ``unsupported``, ``precision_mismatch``, ``out_of_memory``, ``errored`` or why it was left
            out.
        note: why, or what else there is to say.
        step_ms: median of the windows' ms a step.
        window_ms: all of them.
        tokens_per_s: at the median.
        flops_per_s: model FLOPs by formula, or of a product.
        flops_counted: matrix FLOPs of a step as dispatch saw them, to check the formula by.
        of_matrix_rate: ``flops_per_s`` over the best measured rate of a matrix product in the same format.
        against_baseline: the baseline's time over this one's: above 1 is faster.
        against_bare: our loop's time over the bare loop's: above 1 is slower.
        allocated_bytes, reserved_bytes: the peak of a step; on the CPU what a step needs, counted.
        effective: the precision that ran, as observed.
        attention: the operation that computed it.
        outcome: of a liar: ``caught``, ``MISSED``, ``false alarm`` or ``nothing to catch``.
        gpu_state: SM clock, power and temperature when it ended, by nvidia-smi.
        kernels: the profile of three steps.
    """

    item: str
    arm: str
    status: str = "measured"
    note: str | None = None
    step_ms: float | None = None
    window_ms: list[float] = field(default_factory=list)
    tokens_per_s: float | None = None
    flops_per_s: float | None = None
    flops_counted: int | None = None
    of_matrix_rate: float | None = None
    against_baseline: float | None = None
    against_bare: float | None = None
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    effective: str | None = None
    attention: str | None = None
    outcome: str | None = None
    gpu_state: str | None = None
    kernels: list[dict[str, Any]] = field(default_factory=list)


class Record:
    """All rows so far, written out after each: a killed run keeps what it has.

    Args:
        file: where to; ``None`` writes nothing.
        device: what is measured.
        **about: what else the file says of the run.
    """

    def __init__(self, file: Path | None, device: torch.device, **about: Any) -> None:
        self._file, self._device = file, device
        self._about = about | {
            "device": device_name(device),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "python": platform.python_version(),
            "started_at": time.time(),
        }
        self.rows: list[Row] = []
        self.aims: list[Any] = []

    def add(self, row: Row) -> None:
        """Keeps a row."""
        row.gpu_state = _gpu_state() if self._device.type == "cuda" and row.status == "measured" else None
        self.rows.append(row)
        shown = [row.item, row.arm, row.status, f"{row.step_ms:.3g} ms" if row.step_ms else row.note or ""]
        print("  ".join(shown).rstrip(), file=sys.stderr, flush=True)
        self.write()

    def write(self) -> None:
        """Writes the file anew, and never half of it."""
        if self._file is None:
            return
        content = self._about | {"rows": [asdict(row) for row in self.rows], "aims": [asdict(aim) for aim in self.aims]}
        beside = self._file.with_name(self._file.name + ".part")
        beside.write_text(json.dumps(_finite(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(beside, self._file)


def _finite(value: Any) -> Any:
    """Unknown is a missing value: JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _gpu_state() -> str | None:
    query = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw,temperature.gpu", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


COLUMNS = (
    ("", lambda row: row.item),
    ("arm", lambda row: row.arm),
    ("ms a step", lambda row: _number(row.step_ms, ".4g")),
    ("tokens/s", lambda row: _number(row.tokens_per_s, ",.0f")),
    ("TFLOP/s", lambda row: _number(row.flops_per_s, ".4g", 1e-12)),
    ("of matrix rate", lambda row: _number(row.of_matrix_rate, ".1%")),
    ("baseline / it", lambda row: _number(row.against_baseline, ".2f")),
    ("it / bare", lambda row: _number(row.against_bare, ".3f")),
    ("GiB", lambda row: _number(row.allocated_bytes, ".1f", 1 / GIB)),
    ("reserved", lambda row: _number(row.reserved_bytes, ".1f", 1 / GIB)),
    ("ran", lambda row: row.effective or ""),
    ("attention", lambda row: row.attention or ""),
    ("", lambda row: "; ".join(part for part in (_status(row), row.outcome, row.note) if part)),
)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in columns."""
    cells = [list(columns), *map(list, rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    last = len(columns) - 1
    lines = [
        "  ".join(cell if i == last else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def rows_table(rows: Sequence[Row]) -> str:
    """The table of all rows, and what profiles there are below it."""
    found = table([name for name, _ in COLUMNS], [[show(row) for _, show in COLUMNS] for row in rows])
    for row in rows:
        if row.kernels:
            shown = [[f"{k['ms_a_step']:.3f}", f"{k['share']:.1%}", k["kernel"][:110]] for k in row.kernels]
            found += f"\n\n{row.item}, {row.arm}: three steps\n" + table(["ms a step", "share", "kernel"], shown)
    return found


def _number(value: float | None, form: str, factor: float = 1) -> str:
    return "" if value is None else format(value * factor, form)


def _status(row: Row) -> str | None:
    return None if row.status == "measured" else row.status
