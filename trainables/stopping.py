"""Whether a trial has come far enough, or no further, before its budget is spent. Plain data; imports no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Mode = Literal["max", "min"]

ROUNDING = 1e-12
"""What an improvement may lack of the smallest one that counts: 0.3 is 0.1 more than 0.2."""


@dataclass(frozen=True)
class Stopping:
    """When a trial ends before its budget.

    Args:
        metric, mode: what ``patience`` looks at, and which way it is better.
        targets: metric -> the value at which a trial ends, and which way is better; the first one reached suffices.
        patience: reports in a row without a better value after which a trial ends, at least 1; ``None``: never.
        min_delta: a value is better where it beats the last better one by at least this, and at all.
    """

    metric: str
    mode: Mode
    targets: Mapping[str, tuple[float, Mode]]
    patience: int | None = None
    min_delta: float = 0.0


def enough(stopping: Stopping, curve: Sequence[Mapping[str, float]], step: int) -> str | None:
    """Why a trial need not go on, or ``None`` where it should.

    Args:
        stopping: when to end.
        curve: the metrics of all of its reports, the last one at least.
        step: where it stands, for the reason.
    """
    for name, (target, mode) in stopping.targets.items():
        if _sign(mode) * curve[-1].get(name, math.nan) >= _sign(mode) * target:
            return f"{name} reached {target:g} by step {step}"
    if stopping.patience is None or num_without_better(stopping, curve) < stopping.patience:
        return None
    reports = f"{stopping.patience} report{'s' if stopping.patience > 1 else ''}"
    return f"{stopping.metric} no better for {reports}, by step {step}"


def num_without_better(stopping: Stopping, curve: Sequence[Mapping[str, float]]) -> int:
    """Reports since the last one that was better than all before it; the first one is, one that is not finite never.

    Gains of less than ``min_delta`` add up: they are measured from the last value that was better.
    """
    best, best_at = -math.inf, 0
    for index, metrics in enumerate(curve):
        value = _sign(stopping.mode) * metrics.get(stopping.metric, math.nan)
        if math.isfinite(value) and value > best and value - best >= stopping.min_delta - ROUNDING:
            best, best_at = value, index
    return len(curve) - 1 - best_at


def _sign(mode: Mode) -> float:
    return 1.0 if mode == "max" else -1.0
