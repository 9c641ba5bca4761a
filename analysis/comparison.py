"""One model against another on the examples that both saw: a table of figures, paired, with 95 % intervals.

Every function takes plain arrays. A figure is a mean over units (examples, tokens, rounds of timing); both models have
the same units in the same order, so that what makes an example hard for both does not widen the interval.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from analysis.intervals import Interval, no_interval, t_interval

COLUMNS = ("figure", "model", "baseline", "change", "value", "low", "high", "num", "says")
"""``change`` is ``difference`` (model minus baseline) or ``ratio`` (model over baseline), of which ``value`` is the
estimate; ``num`` counts the units that the interval rests on; ``says`` puts it in words."""

LOSS, PERPLEXITY, SPEED = "loss", "perplexity", "samples per second"

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What was measured of one of the two models.

    Args:
        sums: figure -> ``(sums, counts)``, both (units,): each unit's total and by how much it counts, such as an
            example's loss over its tokens and their number. The figure is the sum of all over the count of all.
        rates: samples per second (rounds,), the same rounds for both models.
        values: figures of which only one number is known, such as a metric that cannot be split into examples.
        sizes: figures that are counted and not estimated, such as the number of parameters.
        has_perplexity: whether ``loss`` is a mean over tokens, whose exponential is the perplexity.
    """

    sums: Mapping[str, tuple[ArrayLike, ArrayLike]] = field(default_factory=dict)
    rates: ArrayLike = ()
    values: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, float] = field(default_factory=dict)
    has_perplexity: bool = False


def comparison(model: Measured, baseline: Measured) -> pd.DataFrame:
    """The table of a model against a baseline.

    Args:
        model, baseline: with the same figures, units and rounds.

    Returns:
        a row for every figure: the means (of rates the geometric ones), then the values, speed and sizes; columns
        :data:`COLUMNS`. The intervals hold each on its own, at 95 %; NaN where the data give none.
    """
    rows = []
    for figure, (sums, counts) in model.sums.items():
        other_sums, other_counts = baseline.sums[figure]
        rows.append(_mean_row(figure, *_floats(sums, counts, other_sums, other_counts)))
        if figure == LOSS and model.has_perplexity:
            rows.append(_perplexity_row(rows[-1]))
    for figure, value in model.values.items():
        rows.append(
            _row(figure, value, baseline.values[figure], "difference", no_interval(0, value - baseline.values[figure]))
        )
    if np.size(model.rates):
        rows.append(_speed_row(*_floats(model.rates, baseline.rates)))
    rows += [_size_row(figure, value, baseline.sizes[figure]) for figure, value in model.sizes.items()]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"num": "Int64"})


def mean_difference(sums: ArrayLike, counts: ArrayLike, other_sums: ArrayLike, other_counts: ArrayLike) -> Interval:
    """The difference of two means over the same units, each a sum of sums over a sum of counts.

    Where every unit is one success or failure in both, the interval is :func:`proportions_interval`. Else it is a t
    interval of the linearized difference (the delta method over units), which for equal counts is the paired t
    interval; of successes among several, such as right tokens, it is at least as wide as if one had differed, for
    where (almost) none did, nothing seems to vary.

    Args:
        sums, counts, other_sums, other_counts: (units,). A value that is not finite makes all unknown.

    Returns:
        the first mean minus the second; ``num`` counts the units that count in either.

    Source:
        Cochran 1977, Sampling Techniques, section 6.8 (the variance of a ratio and of a difference of ratios).
    """
    a, w, b, v = _floats(sums, counts, other_sums, other_counts)
    kept = (w != 0) | (v != 0)
    a, w, b, v = a[kept], w[kept], b[kept], v[kept]
    num = len(a)
    if not num or not np.isfinite(np.stack([a, w, b, v])).all() or not w.sum() or not v.sum():
        return no_interval(num)
    successes = _are_successes(a, w) and _are_successes(b, v)
    if successes and (w == 1).all() and (v == 1).all():
        return proportions_interval(int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum()), num)
    first, second = a.sum() / w.sum(), b.sum() / v.sum()
    # Around their mean, which is 0 but for rounding: models that agree must not seem to vary.
    parts = num * ((a - first * w) / w.sum() - (b - second * v) / v.sum())
    found = replace(t_interval(parts), value=float(first - second))
    half = stdtrit(num - 1, 0.975) * found.sd / math.sqrt(num) if num > 1 else math.nan
    if successes:
        half = max(half, float(ndtri(0.975)) / min(w.sum(), v.sum()))
    return replace(found, low=found.value - half, high=found.value + half)


def proportions_interval(only_first: int, only_second: int, num: int) -> Interval:
    """The difference of two proportions of the same examples, with an interval that few or no discordant ones suit.

    It is Wald's after one example was added to either kind of discordant ones. Its coverage, computed exactly over 20
    to 1,000 examples with 0.5 % to 30 % discordant ones, is 0.93 or more and 0.96 or more on average; that of a
    t interval of the differences falls to 0.1, since it is of no width where no example differed.

    Args:
        only_first: examples that the first has right and the second wrong.
        only_second: the other way round.
        num: examples in all, at least 1.

    Source:
        Bonett & Price 2012, Journal of Educational and Behavioral Statistics 37:479-488; recommended by Fagerland,
        Lydersen & Laake 2014, Statistics in Medicine 33:2850-2875.
    """
    first, second = (only_first + 1) / (num + 2), (only_second + 1) / (num + 2)
    middle = first - second
    half = float(ndtri(0.975)) * math.sqrt((first + second - middle**2) / (num + 2))
    return Interval((only_first - only_second) / num, max(middle - half, -1.0), min(middle + half, 1.0), num)


def _are_successes(sums: _Floats, counts: _Floats) -> bool:
    """Whether each unit is a number of successes among a number of trials."""
    whole = (sums == np.round(sums)) & (counts == np.round(counts))
    return bool((whole & (sums >= 0) & (sums <= counts)).all())


def _mean_row(figure: str, sums: _Floats, counts: _Floats, other: _Floats, others: _Floats) -> dict[str, Any]:
    found = mean_difference(sums, counts, other, others)
    return _row(figure, _mean(sums, counts), _mean(other, others), "difference", found)


def _mean(sums: _Floats, counts: _Floats) -> float:
    return float(sums.sum() / counts.sum()) if counts.sum() else math.nan


def _perplexity_row(loss: Mapping[str, Any]) -> dict[str, Any]:
    found = Interval(loss["value"], loss["low"], loss["high"], loss["num"]).exp()
    return _row(PERPLEXITY, float(np.exp(loss["model"])), float(np.exp(loss["baseline"])), "ratio", found)


def _speed_row(rates: _Floats, others: _Floats) -> dict[str, Any]:
    logs, other_logs = np.log(rates), np.log(others)
    found = t_interval(logs - other_logs).exp()
    return _row(SPEED, float(np.exp(logs.mean())), float(np.exp(other_logs.mean())), "ratio", found)


def _size_row(figure: str, size: float, other: float) -> dict[str, Any]:
    ratio = size / other if other else math.nan
    return _row(figure, size, other, "ratio", no_interval(0, ratio)) | {"says": _order(size - other, "the same")}


def _row(figure: str, model: float, baseline: float, change: str, found: Interval) -> dict[str, Any]:
    values = (figure, model, baseline, change, found.value, found.low, found.high, found.num, _says(change, found))
    return dict(zip(COLUMNS, values, strict=True))


def _says(change: str, found: Interval) -> str:
    """Whether an interval is clear of no change."""
    none = 1.0 if change == "ratio" else 0.0
    if math.isnan(found.low) or math.isnan(found.high):
        return "unknown"
    clear = found.low > none or found.high < none
    return _order(found.value - none, "") if clear else "no clear difference"


def _order(difference: float, equal: str) -> str:
    return equal if difference == 0 else "higher" if difference > 0 else "lower"


def _floats(*arrays: ArrayLike) -> tuple[_Floats, ...]:
    return tuple(np.asarray(array, dtype=np.float64).ravel() for array in arrays)
