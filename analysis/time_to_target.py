"""How many times sooner an arm reaches a target, or the quality that its baseline ends with."""

import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.evidence import Question
from analysis.pairs import FAILURES, Pair, Run, ended

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""The steps of a run's reports, ascending, and its metric at each."""

Curves = Callable[[str], Curve | None]
"""trial_id -> the run's curve, or ``None`` where it made no report."""


def curves_of(history: pd.DataFrame, metric: str) -> Curves:
    """The curves of the confirm stage.

    Args:
        history: one sweep's.
        metric: column of ``history``.
    """
    kept = history[history["stage"] == "confirm"]
    if metric in kept:
        kept = kept.dropna(subset=["step", metric])
    found = {
        str(trial_id): (rows["step"].to_numpy(np.float64), rows[metric].to_numpy(np.float64))
        for trial_id, rows in kept.groupby("trial_id", sort=False)
    }
    return found.get


def time_to_target_ratio(question: Question, pairs: Sequence[Pair], curves: Curves) -> float:
    """The baseline's time to the target quality over the arm's: more is better; the median over pairs.

    The target is the question's own, where the sweep stated one (``stop_at``); else the median of what the baseline's
    completed runs end with, less the margin: what a user of the baseline gets, and may lose. A run reaches it at its
    first report that does. Its time is its steps until then at the step time that the arms were timed with, for the
    runs themselves may have shared a machine.

    A run that never reaches the target, or diverged or ran out of memory on the way, takes for ever and stays in: the
    ratio of its pair is 0 or infinite. Where both arms miss, it may be anything, and the median is known only where it
    does not depend on it.

    Args:
        question: which arms, metric and margin.
        pairs: by seed.
        curves: of the pairs' runs.

    Returns:
        the ratio; 0 or infinite where one arm misses in most pairs; NaN where it is unknown.

    Source:
        AlgoPerf, mlcommons/algorithmic-efficiency, docs/DOCUMENTATION.md: a miss scores infinity and stays in.
    """
    sign = 1.0 if question.mode == "max" else -1.0
    both = [(pair.arm.run, pair.baseline.run) for pair in pairs]
    target = _target(question, [base for _, base in both], sign)
    logs = [pair.log_step_ratio for pair in pairs if not pair.contended]
    known = [log for log in logs if math.isfinite(log)]
    if target is None or not known:
        return math.nan
    ratios = []
    for arm, base in both:
        steps = [_steps_to(run, target, sign, curves) for run in (base, arm)]
        if None not in steps:
            ratios.append(_log_ratio(*(float(num) for num in steps if num is not None)))
    return math.exp(_median(ratios) + math.fsum(known) / len(known))


def _target(question: Question, bases: Sequence[Run | None], sign: float) -> float | None:
    if question.target is not None:
        return sign * question.target
    ends = [sign * base.metric for base in bases if base is not None and _has_metric(base)]
    return statistics.median(ends) - question.margin if ends else None


def _has_metric(run: Run) -> bool:
    return run.status == "completed" and math.isfinite(run.metric)


def _steps_to(run: Run | None, target: float, sign: float, curves: Curves) -> float | None:
    """Steps until the target is reached, infinite for a miss; ``None`` where nothing is known of the run."""
    if run is None or not ended(run):
        return None
    if run.status in FAILURES:
        return math.inf
    curve = curves(run.trial_id)
    if curve is None:
        return None
    steps, values = curve
    reached = sign * values >= target - 1e-12
    return float(steps[reached.argmax()]) if reached.any() else math.inf


def _log_ratio(base: float, arm: float) -> float:
    if math.isinf(base) and math.isinf(arm):
        return math.nan
    return math.inf if math.isinf(base) else -math.inf if math.isinf(arm) else math.log(base / arm)


def _median(logs: Sequence[float]) -> float:
    """The median where some values, the NaN, may be anything; NaN where it depends on them."""
    if not logs:
        return math.nan
    low, high = (
        statistics.median(other if math.isnan(log) else log for log in logs) for other in (-math.inf, math.inf)
    )
    return low if low == high else math.nan
