"""Joins the runs and timings of the confirm stage into pairs: what two arms did with one seed on one type of device."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
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
    step_flops: float = math.nan
    compiled: bool | None = None


@dataclass(frozen=True)
class Run:
    """A trial of the confirm stage; ``metric``, ``steps`` and ``cost_usd`` are NaN where they are unknown."""

    trial_id: str
    status: str
    status_reason: str
    metric: float
    observed: Observed
    steps: float = math.nan
    cost_usd: float = math.nan


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

    @property
    def step_ms(self) -> float:
        """Median over the windows."""
        return statistics.median(self.window_ms) if self.window_ms else math.nan


@dataclass(frozen=True)
class Block:
    """A timing process: the arms of one configuration and seed, the copy of the first baseline, and arms by PyTorch's
    default kernels.
    """

    contended: bool
    arms: dict[str, TimedArm]
    copies: dict[str, TimedArm]
    contention: str = ""
    defaults: dict[str, TimedArm] = field(default_factory=dict)

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
    """One arm of a pair: its run and its timing, ``None`` where there is none, and the block that it was timed in;
    ``default`` is its timing by PyTorch's default kernels.
    """

    run: Run | None
    timed: TimedArm | None
    block: Block | None
    default: TimedArm | None = None


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
    def log_speedup_over_default(self) -> float:
        """Log of how many times faster the arm is than the baseline by PyTorch's default kernels; NaN if unknown."""
        if self.arm.timed is None or self.baseline.default is None or self.arm.block is not self.baseline.block:
            return math.nan
        return log_ratio(self.baseline.default, self.arm.timed)

    @property
    def log_step_ratio(self) -> float:
        """Log of the baseline's time of a step over the arm's, whatever their batch sizes; NaN if unknown."""
        if self.arm.timed is None or self.baseline.timed is None:
            return math.nan
        if self.arm.block is self.baseline.block:
            return log_ratio(self.baseline.timed, self.arm.timed)
        return _log(self.baseline.timed.step_ms) - _log(self.arm.timed.step_ms)

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

    @property
    def contention(self) -> str:
        """What that work was, in words; empty where there was none or it is unknown."""
        return next((block.contention for block in self.blocks if block.contention), "")


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
    run = confirmed.runs.get(precision, {}).get((config_id, seed))
    return Side(run, timed, block, block.defaults.get(precision)) if block and timed else Side(run, None, None)


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
    numbers = {name: _number(row[name]) for name in ("steps", "cost_usd")}
    return Run(row["trial_id"], status, reason, _number(row[metric]), _observed(row), **numbers)


def _block(rows: list[dict[Any, Any]]) -> Block:
    timed = [row for row in rows if _text(row["status"]) == "completed" and _text(row["precision"])]
    copies = {row["precision"]: _timed(row) for row in timed if row["is_copy"] is True}
    own = [row for row in timed if row["is_copy"] is not True and row["is_default"] is not True]
    arms = {row["precision"]: _timed(row) for row in own}
    by_default = [row for row in timed if row["is_default"] is True] + [row for row in own if row["route"] == "default"]
    defaults = {row["precision"]: _timed(row) for row in reversed(by_default)}
    contention = next((text for row in rows if (text := _text(row["contention"]))), "")
    return Block(any(row["contended"] is True for row in rows), arms, copies, contention, defaults)


def _timed(row: dict[Any, Any]) -> TimedArm:
    memory = _number(row["peak_memory_bytes"])
    return TimedArm(tuple(row["window_ms"]), _number(row["samples_per_s"]), memory, _observed(row))


def _observed(row: dict[Any, Any]) -> Observed:
    compiled = row["compiled"] if isinstance(row["compiled"], bool) else None
    digests = _text(row["init_digest"]), _text(row["data_digest"])
    return Observed(_text(row["effective_precision"]), *digests, _number(row["step_flops"]), compiled)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float:
    return math.nan if value is None or value is pd.NA else float(value)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else math.nan
