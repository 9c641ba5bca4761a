"""Confidence intervals of paired differences, and how many pairs would decide a question.

A value or bound that the data cannot give is NaN, and a comparison with NaN is false: a rule that asks for a bound to
be clear of a threshold is never met by an interval that does not exist. Of SciPy only `scipy.special`, for
`scipy.stats` is slow to import.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

MOST_PAIRS = 1000
"""More pairs than this are not worth asking for: the truth lies too close to the threshold."""


@dataclass(frozen=True)
class Interval:
    """An estimate with a two-sided confidence interval.

    Args:
        value: the estimate; NaN without data.
        low: lower bound; NaN where there is none, as with one pair.
        high: upper bound, as ``low``.
        num: pairs it rests on.
        sd: standard deviation between pairs, on the scale of the computation; `pairs_needed` plans with it.
        fixed_variance: part of the estimate's variance that more pairs do not reduce (that of the validation examples).
    """

    value: float
    low: float
    high: float
    num: int
    sd: float = math.nan
    fixed_variance: float = 0.0

    def exp(self) -> "Interval":
        """The interval of a ratio from that of its logarithm; ``sd`` stays that of the logarithm."""
        value, low, high = (float(np.exp(bound)) for bound in (self.value, self.low, self.high))
        return replace(self, value=value, low=low, high=high)


def no_interval(num: int, value: float = math.nan) -> Interval:
    """An estimate of unknown uncertainty."""
    return Interval(value, math.nan, math.nan, num)


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of independent values with Student's t interval.

    Args:
        values: (num,), any unit. One value has no interval; a value that is not finite makes all unknown, for dropping
            it would flatter. Values that are all equal give an interval of width 0, as the formula says.
        level: probability that the interval covers the true mean, in (0, 1).
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    if x.size == 0 or not np.isfinite(x).all():
        return no_interval(x.size)
    if x.size == 1:
        return no_interval(1, float(x[0]))
    mean, sd = float(x.mean()), float(x.std(ddof=1))
    if np.ptp(x) == 0:
        mean, sd = float(x[0]), 0.0  # rounding in the mean must not invent a spread
    half = _quantile(x.size - 1, level) * sd / math.sqrt(x.size)
    return Interval(mean, mean - half, mean + half, x.size, sd)


def two_way_interval(differences: ArrayLike, level: float = 0.95, unit: float = 0.0) -> Interval:
    """Mean difference over seeds and validation examples, both taken as random samples.

    The variance of the mean is (MS_s + max(MS_e - MS_res, 0)) / (S E) with Hillis' degrees of freedom, and three steps
    to the safe side: MS_s counts for at least MS_res, its least expected value, for with two or three seeds it is often
    far smaller by luck; the degrees of freedom are at most E - 1, for they would be infinite where the seeds agree; and
    the interval is at least as wide as if one example had differed, for where (almost) none did, the formula says that
    nothing varies, and a further example would be the first to show otherwise.

    Args:
        differences: (S, E): seeds by validation examples, per-example metric of one arm minus the other's. Fewer than
            two seeds or two examples have no interval; a value that is not finite makes all unknown.
        level: as for `t_interval`.
        unit: by how much one example can differ (1 for accuracy), where no example did; otherwise the data tell.

    Returns:
        the interval; ``num`` counts seeds, ``sd`` is between the seeds' means.

    Source:
        Dorfman, Berbaum & Metz 1992; Obuchowski & Rockette 1995; degrees of freedom: Hillis 2007, Statistics in
        Medicine 26:596-619.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 2:
        raise ValueError(f"differences must have the shape (seeds, examples), got {d.shape}; stack one row per seed")
    num_seeds, num_examples = d.shape
    if d.size == 0 or not np.isfinite(d).all():
        return no_interval(num_seeds)
    mean = float(d.mean())
    if num_seeds < 2 or num_examples < 2:
        return no_interval(num_seeds, mean)
    seeds, examples = _mean_squares(d)
    # With MS_s = 0 the estimate rests on the examples alone, and the cap is what holds.
    df = (num_seeds - 1) * ((seeds + examples) / seeds) ** 2 if seeds > 0 else math.inf
    half = _quantile(min(df, num_examples - 1), level) * math.sqrt((seeds + examples) / d.size)
    one_example = (math.sqrt(float((d[d != 0] ** 2).mean())) if d.any() else unit) / num_examples
    fixed = examples / d.size
    if half < (least := _quantile(math.inf, level) * one_example):
        half, fixed = least, one_example**2
    return Interval(mean, mean - half, mean + half, num_seeds, math.sqrt(seeds / num_examples), fixed)


def _mean_squares(d: NDArray[np.float64]) -> tuple[float, float]:
    """The seeds' mean square, at least the residual's, and the part of the examples' that exceeds the residual's."""
    num_seeds, num_examples = d.shape
    by_seed, by_example, mean = d.mean(axis=1), d.mean(axis=0), d.mean()
    ms_seeds = num_examples * float(((by_seed - mean) ** 2).sum()) / (num_seeds - 1)
    ms_examples = num_seeds * float(((by_example - mean) ** 2).sum()) / (num_examples - 1)
    residual = d - by_seed[:, None] - by_example[None, :] + mean
    ms_residual = float((residual**2).sum()) / ((num_seeds - 1) * (num_examples - 1))
    return max(ms_seeds, ms_residual), max(ms_examples - ms_residual, 0.0)


def pairs_needed(interval: Interval, threshold: float, level: float = 0.95, most: int = MOST_PAIRS) -> int | None:
    """How many pairs, those at hand included, would bring the whole interval to one side of a threshold.

    Takes the observed mean and spread for the true ones, so it is a plan and not a promise.

    Args:
        interval: from `t_interval` or `two_way_interval`; of a ratio, the interval of its logarithm.
        threshold: on the interval's scale.
        level: as for `t_interval`.
        most: give up beyond this many.

    Returns:
        the least such number; ``None`` where ``most`` would not do, or where the spread is unknown.
    """
    num = np.arange(2, most + 1, dtype=np.float64)
    between = interval.sd**2
    with np.errstate(divide="ignore", invalid="ignore"):
        df = (num - 1) * ((between + num * interval.fixed_variance) / between) ** 2
    variance = between / num + interval.fixed_variance
    half = stdtrit(np.where(np.isnan(df), np.inf, df), 0.5 + level / 2) * np.sqrt(variance)
    enough = (half < abs(interval.value - threshold)) & (num > interval.num)
    return int(num[enough.argmax()]) if enough.any() else None


def _quantile(df: float, level: float) -> float:
    return float(stdtrit(df, 0.5 + level / 2))
