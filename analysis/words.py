"""Figures and clauses that the verdicts' reasons are made of."""

import math
from collections import Counter
from collections.abc import Sequence

from analysis.evidence import Evidence
from analysis.intervals import Interval

SAME_SPEED = 0.03
"""Logarithms of two speed-ups that differ by less tell the same."""


def sentence(clause: str) -> str:
    """A clause as a sentence; a name or figure at its start stays as it is."""
    first = clause.split(maxsplit=1)[0].rstrip(":,")
    return (clause[0].upper() + clause[1:] if first.isalpha() else clause) + "."


def arms(e: Evidence) -> str:
    """The two precisions."""
    return f"{e.question.precision} and {e.question.baseline}"


def figures(e: Evidence) -> str:
    """Speed-up and metric with their intervals."""
    return f"{speed(e)}, {metric(e)}"


def speed(e: Evidence) -> str:
    """The speed-up, such as ``1.92x as fast as fp32 (1.88 to 1.96)``."""
    against = math.log(e.question.target_speedup)
    value, low, high = (_ratio(log, against) for log in (e.log_speedup.value, e.log_speedup.low, e.log_speedup.high))
    return f"{value}x as fast as {e.question.baseline}{_bounds(e.log_speedup, low, high)}"


def metric(e: Evidence) -> str:
    """The metric's difference, such as ``val_accuracy +0.001 (-0.002 to +0.004)``; positive is better."""
    value, low, high = (difference(x, e.question.margin) for x in (e.delta.value, e.delta.low, e.delta.high))
    better = " better by" if e.question.mode == "min" else ""
    return f"{e.question.metric}{better} {value}{_bounds(e.delta, low, high)}"


def aa(e: Evidence) -> str:
    """The ratio of the baseline's times to its copy's."""
    value, low, high = (_ratio(log, math.nan) for log in (e.log_aa.value, e.log_aa.low, e.log_aa.high))
    return f"{value}x{_bounds(e.log_aa, low, high)}"


def difference(value: float, margin: float) -> str:
    """A difference of the metric, with a sign and one place more than the margin has.

    Args:
        value: the difference.
        margin: the margin it is judged by; more places where rounding would put the value on it.
    """
    places = 1 + max(0, -math.floor(math.log10(margin) + 1e-9)) if margin > 0 else 4
    return f"{value:+.{_clear(value, -margin, places)}f}"


def failed(ends: Sequence[str], num: int | None = None) -> str:
    """How runs failed, such as ``diverged in 2 of 6 runs``."""
    how = " and ".join(f"{_ENDS[end]} in {count}" for end, count in Counter(ends).items())
    return f"{how} of {num} runs" if num is not None else f"{how} {'run' if len(ends) == 1 else 'runs'}"


_ENDS = {"diverged": "diverged", "out_of_memory": "ran out of memory"}


def absent(e: Evidence) -> str:
    """The runs for want of which seeds have no pair, in brackets."""
    return f" ({e.absent})" if e.absent else ""


def notes(e: Evidence) -> str:
    """What a reader must know to weigh the figures, in brackets; empty for a complete set of pairs."""
    parts = []
    if e.num_contended:
        parts.append(f"{e.num_contended} of {e.num_timed} timing pairs left out, their device was shared")
    if e.absent:
        parts.append(f"seeds without a pair: {e.absent}")
    if abs(e.log_speedup_over_default - e.log_speedup.value) > SAME_SPEED:
        other = math.exp(e.log_speedup_over_default)
        parts.append(f"{other:.2f}x as fast as {e.question.baseline} by PyTorch's default kernels")
    if not e.over_examples and not math.isnan(e.delta.low):
        parts.append("the metric's interval is over seeds alone, without the spread of the validation examples")
    return f" ({'; '.join(parts)})" if parts else ""


def _bounds(interval: Interval, low: str, high: str) -> str:
    return "" if math.isnan(interval.low) else f" ({low} to {high})"


def _ratio(log: float, log_threshold: float) -> str:
    value, threshold = math.exp(log), math.exp(log_threshold)
    return f"{value:.{_clear(value, threshold, 2)}f}"


def _clear(value: float, threshold: float, places: int) -> int:
    """Places enough that rounding does not put a value on a threshold that it is off."""
    while places < 8 and round(value, places) == round(threshold, places) and abs(value - threshold) > 1e-9:
        places += 1
    return places
