"""Confidence intervals of paired differences.

A value or bound that the data cannot give is NaN, and a comparison with NaN is false: a rule that asks for a bound to
be clear of a threshold is never met by an interval that does not exist. Of SciPy only `scipy.special`, for
`scipy.stats` is slow to import.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit


@dataclass(frozen=True)
class Interval:
    """An estimate with a two-sided confidence interval.

    Args:
        value: the estimate; NaN without data.
        low: lower bound; NaN where there is none, as with one pair.
        high: upper bound, as ``low``.
        num: pairs it rests on.
        sd: standard deviation between pairs, on the scale of the computation; `analysis.planning` plans with it.
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

    The variance of the mean is (MS_s + max(MS_e - MS_res, 0)) / (S E), with Hillis' degrees of freedom, changed in two
    places where simulation shows them to cover too little (`benchmarks.simulation`):

    - In the degrees of freedom, not in the variance, MS_s counts for at least MS_res, its least expected value: with
      few seeds it is often far smaller by luck, and the degrees would then be many. They are at most E - 1.
    - Two further examples are counted as if they differed, one each way, as much as those that do: where few examples
      differ, the formula knows nothing of the next one that would. Where many do, this changes next to nothing.

    Args:
        differences: (S, E): seeds by validation examples, per-example metric of one arm minus the other's. Fewer than
            two seeds or two examples have no interval; a value that is not finite makes all unknown.
        level: as for `t_interval`.
        unit: by how much one example can differ (1 for accuracy), where no example did; otherwise the data tell.

    Returns:
        the interval; ``num`` counts seeds, ``sd`` is between the seeds' means.

    Source:
        Dorfman, Berbaum & Metz 1992; Obuchowski & Rockette 1995; degrees of freedom: Hillis 2007, Statistics in
        Medicine 26:596-619. The two examples, of one seed and right or wrong answers: Bonett & Price 2012, Journal of
        Educational and Behavioral Statistics 37:479-488.
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
    seeds, examples, residual = _mean_squares(d)
    least = max(seeds, residual)
    df = (num_seeds - 1) * ((least + examples) / least) ** 2 if least > 0 else math.inf
    fixed = examples / d.size + 2 * _squared_effect(d, unit) / num_examples**2
    half = _quantile(min(df, num_examples - 1), level) * math.sqrt(seeds / d.size + fixed)
    return Interval(mean, mean - half, mean + half, num_seeds, math.sqrt(seeds / num_examples), fixed)


def _mean_squares(d: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean squares of the seeds, of the examples as far as it exceeds the residual's, and of the residual."""
    num_seeds, num_examples = d.shape
    by_seed, by_example, mean = d.mean(axis=1), d.mean(axis=0), d.mean()
    ms_seeds = num_examples * float(((by_seed - mean) ** 2).sum()) / (num_seeds - 1)
    ms_examples = num_seeds * float(((by_example - mean) ** 2).sum()) / (num_examples - 1)
    residual = d - by_seed[:, None] - by_example[None, :] + mean
    ms_residual = float((residual**2).sum()) / ((num_seeds - 1) * (num_examples - 1))
    return ms_seeds, max(ms_examples - ms_residual, 0.0), ms_residual


def _squared_effect(d: NDArray[np.float64], unit: float) -> float:
    """The squared deviation of an example that differs, over all seeds: each counts by how much it does."""
    squares = (d.mean(axis=0) - d.mean()) ** 2
    return float((squares**2).sum() / squares.sum()) if np.ptp(d) > 0 and squares.any() else unit**2


def _quantile(df: float, level: float) -> float:
    return float(stdtrit(df, 0.5 + level / 2))
