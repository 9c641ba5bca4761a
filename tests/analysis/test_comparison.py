import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from analysis.comparison import COLUMNS, Measured, comparison, mean_difference, proportions_interval
from analysis.intervals import t_interval

values = st.floats(-100, 100)
counts = st.integers(1, 50)
units = st.lists(st.tuples(values, counts, values, counts), min_size=2, max_size=20)


def columns(rows):
    return [np.array(column, dtype=float) for column in zip(*rows, strict=True)]


def test_proportions_interval_is_the_published_one():
    """The example of `ci.prop.ps` in R's statpsych, which is by one of the interval's authors."""
    interval = proportions_interval(26, 4, 48)
    assert (interval.low, interval.high) == pytest.approx((0.2548067, 0.6251933), abs=1e-7)
    assert interval.value == pytest.approx(22 / 48)


@pytest.mark.parametrize("num", [20, 100])
@pytest.mark.parametrize("discordant", [0.005, 0.03, 0.2])
@pytest.mark.parametrize("share", [0.5, 0.75, 0.95])
def test_proportions_interval_covers_the_truth(num, discordant, share):
    """Exactly: over all outcomes, by their probabilities."""
    covered, truth = 0.0, discordant * (2 * share - 1)
    for both in range(num + 1):
        for first in range(both + 1):
            interval = proportions_interval(first, both - first, num)
            if interval.low <= truth <= interval.high:
                covered += binom.pmf(both, num, discordant) * binom.pmf(first, both, share)
    assert covered >= 0.93


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10_000), st.data())
def test_proportions_interval_holds_its_estimate_and_mirrors(num, data):
    first = data.draw(st.integers(0, num))
    second = data.draw(st.integers(0, num - first))
    one, other = proportions_interval(first, second, num), proportions_interval(second, first, num)
    assert -1 <= one.low <= one.value <= one.high <= 1
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


def test_with_equal_counts_it_is_the_paired_t_interval():
    rng = np.random.default_rng(0)
    model, baseline, ones = rng.normal(1, 1, 30), rng.normal(0, 1, 30), np.ones(30)
    found, expected = mean_difference(model, ones, baseline, ones), t_interval(model - baseline)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert found.num == 30


def test_examples_count_by_their_tokens():
    # Means 10/4 and 8/4. Linearized parts of two units: 2 (1 - 2.5 - (2 - 2)) / 4 and 2 (9 - 7.5 - (6 - 6)) / 4.
    found = mean_difference([1.0, 9.0], [1, 3], [2.0, 6.0], [1, 3])
    assert found.value == pytest.approx(0.5)
    sd = math.sqrt(2) * 0.75
    assert found.sd == pytest.approx(sd)
    assert found.high - found.value == pytest.approx(12.7062047 * sd / math.sqrt(2), rel=1e-6)


LENGTHS_VARIANCE = (195**2 - 1) / 12
"""Of 5 to 199, all as likely."""


@pytest.mark.parametrize("num", [30, 300])
def test_the_interval_of_a_mean_over_tokens_covers_the_truth(num):
    """Long examples are harder here, so that an interval that took counts for fixed would be off."""
    rng = np.random.default_rng(num)
    covered = 0
    for _ in range(1500):
        lengths = rng.integers(5, 200, num).astype(float)
        gain = 0.05 + 0.002 * (lengths - 102) + 0.3 * rng.standard_normal(num)
        losses = rng.gamma(2, 1, num)
        interval = mean_difference((losses + gain) * lengths, lengths, losses * lengths, lengths)
        truth = 0.05 + 0.002 * (LENGTHS_VARIANCE / 102)
        covered += interval.low <= truth <= interval.high
    assert 0.925 <= covered / 1500 <= 0.975


@settings(max_examples=60, deadline=None)
@given(units)
def test_a_model_against_itself_differs_by_nothing(rows):
    sums, num, _, _ = columns(rows)
    found = mean_difference(sums, num, sums, num)
    assert found.value == 0
    assert found.low <= 0 <= found.high
    table = comparison(Measured({"loss": (sums, num)}), Measured({"loss": (sums, num)}))
    assert table["says"].tolist() == ["no clear difference"]


@settings(max_examples=60, deadline=None)
@given(units, st.lists(st.floats(0.1, 1e5), min_size=2, max_size=6))
def test_swapped_models_give_mirrored_rows(rows, rates):
    a, w, b, v = columns(rows)
    one = Measured({"loss": (a, w)}, rates, {"f1": 0.3}, {"bytes": 10}, has_perplexity=True)
    other = Measured({"loss": (b, v)}, rates[::-1], {"f1": 0.4}, {"bytes": 40}, has_perplexity=True)
    with np.errstate(over="ignore", invalid="ignore"):
        there, back = comparison(one, other), comparison(other, one)
    opposite = {"higher": "lower", "lower": "higher"}
    for row, mirrored in zip(there.to_dict("records"), back.to_dict("records"), strict=True):
        assert (row["model"], row["baseline"]) == (mirrored["baseline"], mirrored["model"])
        expected = [mirrored[name] for name in ("value", "high", "low")]
        with np.errstate(divide="ignore", over="ignore"):
            turned = [-x if row["change"] == "difference" else np.divide(1, x) for x in expected]
        assert [row["value"], row["low"], row["high"]] == pytest.approx(turned, rel=1e-6, abs=1e-9, nan_ok=True)
        assert opposite.get(row["says"], row["says"]) == mirrored["says"]


def test_the_table_of_a_language_model():
    model = Measured({"loss": ([2.0, 4.0], [2, 2]), "accuracy": ([1, 2], [2, 2])}, [20.0, 20.0], has_perplexity=True)
    baseline = Measured({"loss": ([4.0, 6.0], [2, 2]), "accuracy": ([0, 1], [2, 2])}, [10.0, 10.0])
    table = comparison(model, baseline)
    assert tuple(table.columns) == COLUMNS
    rows = table.set_index("figure")
    assert list(rows.index) == ["loss", "perplexity", "accuracy", "samples per second"]
    assert rows.loc["loss", "value"] == -1
    assert rows.loc["perplexity", ["model", "baseline", "value"]].tolist() == pytest.approx(
        [math.exp(1.5), math.exp(2.5), math.exp(-1)]
    )
    assert rows.loc["perplexity", "change"] == "ratio"
    assert rows.loc["accuracy", ["model", "baseline", "value"]].tolist() == [0.75, 0.25, 0.5]
    assert rows.loc["samples per second", ["model", "value", "low", "high"]].tolist() == pytest.approx([20, 2, 2, 2])
    assert rows["says"].to_dict() == {
        "loss": "lower",
        "perplexity": "lower",
        "accuracy": "higher",
        "samples per second": "higher",
    }


def test_right_tokens_that_agree_still_leave_a_doubt():
    """Were the interval of no width, one token more in a thousand would be called a clear difference."""
    counts = np.full(50, 20)
    found = mean_difference(np.full(50, 10), counts, np.full(50, 10), counts)
    assert found.high == pytest.approx(1.959964 / 1000)
    assert found.low == -found.high


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_unknown_stays_unknown(bad):
    table = comparison(Measured({"loss": ([1.0, bad], [1, 1])}), Measured({"loss": ([1.0, 2.0], [1, 1])}))
    row = table.iloc[0]
    assert math.isnan(row["value"])
    assert math.isnan(row["low"])
    assert row["says"] == "unknown"
    assert row["baseline"] == 1.5


@pytest.mark.parametrize(("counts", "value"), [([0, 0], math.nan), ([1, 0], 2.0)])
def test_what_does_not_count_is_left_out(counts, value):
    found = mean_difference([3.0, 0.0], counts, [1.0, 0.0], counts)
    assert found.num == sum(counts)
    assert math.isnan(found.low)
    assert found.value == pytest.approx(value, nan_ok=True)


def test_sizes_are_counted_and_not_estimated():
    table = comparison(Measured(sizes={"bytes": 10, "a": 1, "b": 1}), Measured(sizes={"bytes": 20, "a": 1, "b": 0}))
    assert table["value"].tolist() == pytest.approx([0.5, 1.0, math.nan], nan_ok=True)
    assert table["low"].isna().all()
    assert table["says"].tolist() == ["lower", "the same", "higher"]
