"""Joins the runs and timings of the confirm stage into pairs: what two arms did with one seed on one type of device."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Examples = Callable[[str], "NDArray[np.float64] | None"]
"""trial_id -> the metric per validation example, (num_val_examples,), or ``None`` where it is not recorded."""

FAILURES = ("diverged", "out_of_memory")
"""How a run can end because of its precision."""


@dataclass(frozen=True)
class Observed:
    """What a run or a timed arm was seen to be; ``None`` is not observed."""

    effective_precision: str | None
    init_digest: str | None
    data_digest: str | None
    compiled: bool | None = None


@dataclass(frozen=True)
class Run:
    """A trial of the confirm stage; ``metric`` is NaN where it is unknown."""

    trial_id: str
    status: str
    status_reason: str
    metric: float
    observed: Observed


def ended(run: Run) -> bool:
    """Whether a run came to an end of its own, one that its precision can be credited with or blamed for."""
    return run.status == "completed" or run.status in FAILURES


@dataclass(frozen=True)
class TimedArm:
    """One precision in a timing process; unknown figures are NaN."""

    window_ms: tuple[float, ...]
    samples_per_s: float
    peak_memory_bytes: float
    observed: Observed


@dataclass(frozen=True)
class Block:
    """A timing process: the arms of one configuration and seed, and the copy of the first baseline."""

    contended: bool
    arms: dict[str, TimedArm]
    copies: dict[str, TimedArm]

    @property
    def aa(self) -> float:
        """Log ratio of the times of the baseline and its copy, NaN without them."""
        return next(
            (log_ratio(self.arms[name], copy) for name, copy in self.copies.items() if name in self.arms), math.nan
        )


Key = tuple[str, int]
"""Configuration and seed."""


@dataclass(frozen=True)
class Confirmed:
    """What the confirm stage did on one type of device.

    Args:
        runs: precision -> (config_id, seed) -> run.
        blocks: (config_id, seed) -> timing.
    """

    runs: dict[str, dict[Key, Run]]
    blocks: dict[Key, Block]


@dataclass(frozen=True)
class Side:
    """One arm of a pair: its run and its timing, ``None`` where there is none, and the block that it was timed in."""

    run: Run | None
    timed: TimedArm | None
    block: Block | None


@dataclass(frozen=True)
class Pair:
    """Two arms with one seed."""

    seed: int
    arm: Side
    baseline: Side

    @property
    def log_speedup(self) -> float:
        """Log of how many times faster the arm is: by windows in one process, else by throughput; NaN if unknown."""
        if self.arm.timed is None or self.baseline.timed is None:
            return math.nan
        if self.arm.block is self.baseline.block:
            return log_ratio(self.baseline.timed, self.arm.timed)
        return _log(self.arm.timed.samples_per_s) - _log(self.baseline.timed.samples_per_s)

    @property
    def log_memory_ratio(self) -> float:
        """Log of the baseline's peak memory over the arm's; NaN if unknown."""
        if self.arm.timed is None or self.baseline.timed is None:
            return math.nan
        return _log(self.baseline.timed.peak_memory_bytes) - _log(self.arm.timed.peak_memory_bytes)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The timing processes that the pair rests on: one, or two where the configurations differ."""
        found = {id(block): block for block in (self.arm.block, self.baseline.block) if block is not None}
        return tuple(found.values())

    @property
    def contended(self) -> bool:
        """Whether other work was seen on the device while the pair was timed."""
        return any(block.contended for block in self.blocks)


def log_ratio(slow: TimedArm, fast: TimedArm) -> float:
    """Mean over windows of the log ratio of two arms' step times; windows are paired in their order."""
    logs = [_log(a) - _log(b) for a, b in zip(slow.window_ms, fast.window_ms, strict=False)]
    return math.fsum(logs) / len(logs) if logs else math.nan


def pairs_of(confirmed: Confirmed, arm: tuple[str, str], baseline: tuple[str, str]) -> list[Pair]:
    """The pairs of two arms, by seed.

    Args:
        confirmed: what was run on one type of device.
        arm: (config_id, precision).
        baseline: (config_id, precision).
    """
    seeds = {
        seed for key in (arm, baseline) for config_id, seed in confirmed.runs.get(key[1], {}) if config_id == key[0]
    }
    seeds |= {seed for config_id, seed in confirmed.blocks if config_id in (arm[0], baseline[0])}
    return [Pair(seed, _side(confirmed, arm, seed), _side(confirmed, baseline, seed)) for seed in sorted(seeds)]


def _side(confirmed: Confirmed, arm: tuple[str, str], seed: int) -> Side:
    config_id, precision = arm
    block = confirmed.blocks.get((config_id, seed))
    timed = block.arms.get(precision) if block else None
    return Side(confirmed.runs.get(precision, {}).get((config_id, seed)), timed, block if timed else None)


def confirmed_by_device(trials: pd.DataFrame, timings: pd.DataFrame, metric: str) -> dict[str, Confirmed]:
    """Runs and timings of the confirm stage: device -> what was done on it.

    Args:
        trials: one sweep's trials, of any stage.
        timings: its timings.
        metric: column of ``trials``.
    """
    confirm = trials[trials["stage"] == "confirm"]
    runs = _with_devices(confirm.dropna(subset=["config_id", "seed", "precision"]))
    timings = timings.dropna(subset=["config_id", "seed", "device"])
    found: dict[str, Confirmed] = {}
    for row in runs.to_dict("records"):
        device = found.setdefault(row["device"], Confirmed({}, {}))
        device.runs.setdefault(row["precision"], {})[row["config_id"], int(row["seed"])] = _run(row, metric)
    rows: dict[tuple[str, str, int], list[dict[Any, Any]]] = {}
    for row in timings.to_dict("records"):
        rows.setdefault((row["device"], row["config_id"], int(row["seed"])), []).append(row)
    for (name, config_id, seed), arms in rows.items():
        found.setdefault(name, Confirmed({}, {})).blocks[config_id, seed] = _block(arms)
    return found


def _with_devices(runs: pd.DataFrame) -> pd.DataFrame:
    """A run that ended before it knew its device is put where the rest of its block, or of the sweep, ran."""
    block = runs.groupby(["config_id", "seed"])["device"].transform("first")
    devices = runs["device"].dropna().unique()
    anywhere = devices[0] if len(devices) == 1 else "unknown"
    return runs.assign(device=runs["device"].fillna(block).fillna(anywhere))


def _run(row: dict[Any, Any], metric: str) -> Run:
    status, reason = _text(row["status"]) or "unknown", _text(row["status_reason"]) or ""
    return Run(row["trial_id"], status, reason, _number(row[metric]), _observed(row))


def _block(rows: list[dict[Any, Any]]) -> Block:
    timed = [row for row in rows if _text(row["status"]) == "completed" and _text(row["precision"])]
    arms = {row["precision"]: _timed(row) for row in timed if row["is_copy"] is not True}
    copies = {row["precision"]: _timed(row) for row in timed if row["is_copy"] is True}
    return Block(any(row["contended"] is True for row in rows), arms, copies)


def _timed(row: dict[Any, Any]) -> TimedArm:
    memory = _number(row["peak_memory_bytes"])
    return TimedArm(tuple(row["window_ms"]), _number(row["samples_per_s"]), memory, _observed(row))


def _observed(row: dict[Any, Any]) -> Observed:
    compiled = row["compiled"] if isinstance(row["compiled"], bool) else None
    return Observed(_text(row["effective_precision"]), _text(row["init_digest"]), _text(row["data_digest"]), compiled)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float:
    return math.nan if value is None or value is pd.NA else float(value)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else math.nan
