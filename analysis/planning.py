"""How many pairs would decide a question that an interval leaves open."""

import math
from bisect import bisect_left
from functools import lru_cache

import numpy as np
from scipy.special import chdtri, nctdtr, ndtri, stdtrit

from analysis.intervals import Interval

MOST_PAIRS = 1000
"""More pairs than this are not worth asking for: the truth lies too close to the threshold."""

POWER = 0.8
"""How often a plan is to come out right."""

MEDIUM = 0.5
"""The distance from a threshold, in standard deviations between pairs, that is planned for while the pairs at hand do
not tell it from a larger or smaller one: Cohen's medium effect."""


@lru_cache  # a verdict, its reason and its number all ask
def pairs_needed(
    interval: Interval, threshold: float, level: float = 0.95, power: float = POWER, most: int = MOST_PAIRS
) -> int | None:
    """How many pairs, those at hand included, bring the whole interval to the truth's side of a threshold.

    The distance that few pairs show is no plan: taken for the true one, it decides every other time. So the plan is for
    the least distance that the data allow (a one-sided bound of 80 % on the noncentrality of Student's t), or for half
    a standard deviation between pairs where the data allow that too, whichever is larger. Where even the largest that
    they allow is smaller, it is for that one: a larger plan would rest on a difference that nobody has seen yet.

    Args:
        interval: from `t_interval` or `two_way_interval`; of a ratio, the interval of its logarithm.
        threshold: on the interval's scale.
        level: as for `t_interval`.
        power: probability with which the plan decides, in (0, 1).
        most: give up beyond this many.

    Returns:
        the least such number; ``None`` where ``most`` would not do, or where the spread is unknown.

    Source:
        The bound's standard error: Johnson & Welch 1940, Biometrika 31:362-389. Half a standard deviation: Cohen 1988,
        Statistical Power Analysis for the Behavioral Sciences.
    """
    if interval.num < 2 or not math.isfinite(interval.sd):
        return None
    error = math.sqrt(_variance(interval, interval.num))
    observed = abs(interval.value - threshold)
    if error == 0:
        return interval.num + 1 if observed else None
    distance = error * _noncentrality(observed / error, interval.num)
    counts = range(interval.num + 1, most + 1)
    index = bisect_left(counts, power, key=lambda num: _power(interval, num, distance, level))
    return counts[index] if index < len(counts) else None


def pairs_for_width(interval: Interval, width: float, level: float = 0.95, most: int = MOST_PAIRS) -> int | None:
    """How many pairs, those at hand included, make a t interval at most so wide.

    Takes the observed spread for the true one, and that of the pairs to come for larger than it in one case of five.

    Args:
        interval: from `t_interval`.
        width: from bound to bound, on the interval's scale.
        level: as for `t_interval`.
        most: give up beyond this many.

    Returns:
        the least such number; ``None`` where ``most`` would not do, or where the spread is unknown.
    """
    num = np.arange(max(interval.num + 1, 2), most + 1, dtype=np.float64)
    sd = interval.sd * np.sqrt(chdtri(num - 1, 1 - POWER) / (num - 1))
    enough = 2 * stdtrit(num - 1, 0.5 + level / 2) * sd / np.sqrt(num) <= width
    return int(num[enough.argmax()]) if enough.any() else None


def _noncentrality(t: float, num: int) -> float:
    """The distance to plan for, in standard errors at hand, where one of ``t`` of them was observed."""
    slack = float(ndtri(POWER)) * math.sqrt(1 + t**2 / (2 * (num - 1)))
    return max(t - slack, min(MEDIUM * math.sqrt(num), t + slack))


def _power(interval: Interval, num: int, distance: float, level: float) -> float:
    """How often so many pairs show a distance; it grows with their number."""
    variance = _variance(interval, num)
    # Hillis' degrees of freedom, of a normal distribution where the seeds agree.
    between = max(interval.sd**2 / num, 1e-6 * variance)
    df = min((num - 1) * (variance / between) ** 2, 1e6)
    return 1 - float(nctdtr(df, distance / math.sqrt(variance), stdtrit(df, 0.5 + level / 2)))


def _variance(interval: Interval, num: int) -> float:
    return interval.sd**2 / num + interval.fixed_variance
