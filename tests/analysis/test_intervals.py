import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri, stdtrit

from analysis.intervals import t_interval, two_way_interval

finite = st.floats(-1e3, 1e3)
samples = st.lists(finite, min_size=2, max_size=12)


def test_t_interval_by_hand():
    # mean 2, sd 1, t(2) = 4.302653: 2 +- 4.302653 / sqrt(3)
    interval = t_interval([1.0, 2.0, 3.0])
    assert (interval.value, interval.num, interval.sd) == (2.0, 3, 1.0)
    assert interval.low == pytest.approx(-0.4841377, abs=1e-6)
    assert interval.high == pytest.approx(4.4841377, abs=1e-6)


def test_geometric_mean_interval_by_hand():
    # log ratios of mean ln 2 and sd 0.1: t(3) = 3.182446 times 0.05
    logs = math.log(2) + 0.1 * np.array([-1.5, -0.5, 0.5, 1.5]) / math.sqrt(5 / 3)
    interval = t_interval(logs).exp()
    assert interval.value == pytest.approx(2.0)
    assert interval.low == pytest.approx(2 * math.exp(-3.182446 * 0.05), rel=1e-6)
    assert interval.high == pytest.approx(2 * math.exp(3.182446 * 0.05), rel=1e-6)
    assert interval.sd == pytest.approx(0.1)


@pytest.mark.parametrize("values", [[], [math.nan, 1.0, 2.0], [math.inf, 1.0]])
def test_what_is_unknown_stays_unknown(values):
    interval = t_interval(values)
    assert math.isnan(interval.value)
    assert math.isnan(interval.low)
    assert interval.num == len(values)


def test_one_value_has_no_interval():
    interval = t_interval([0.7])
    assert interval.value == 0.7
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_equal_values_give_width_zero_without_rounding():
    interval = t_interval([0.1, 0.1, 0.1])
    assert (interval.low, interval.value, interval.high, interval.sd) == (0.1, 0.1, 0.1, 0.0)


@given(samples, finite, st.floats(0.1, 10))
def test_t_interval_moves_and_scales_with_the_data(values, shift, scale):
    one, other = t_interval(values), t_interval([scale * value + shift for value in values])
    assert one.low <= one.value <= one.high
    assert other.low == pytest.approx(scale * one.low + shift, rel=1e-6, abs=1e-6)
    assert other.high == pytest.approx(scale * one.high + shift, rel=1e-6, abs=1e-6)


@given(samples)
def test_a_higher_level_is_wider(values):
    narrow, wide = t_interval(values, 0.8), t_interval(values, 0.99)
    assert wide.low <= narrow.low
    assert wide.high >= narrow.high


def test_two_way_by_hand():
    # Rows are seeds, columns examples; means by seed 1, 2, 3 and by example 1, 2, 3.
    d = np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 4.0], [2.0, 4.0, 3.0]])
    mean, by_seed, by_example = 2.0, d.mean(axis=1), d.mean(axis=0)
    ms_s = 3 * ((by_seed - mean) ** 2).sum() / 2
    ms_e = 3 * ((by_example - mean) ** 2).sum() / 2
    ms_res = ((d - by_seed[:, None] - by_example + mean) ** 2).sum() / 4
    assert (ms_s, ms_e, ms_res) == pytest.approx((3.0, 3.0, 1.0))
    # Two more examples that differ as much as the first and the third, by 1 from the mean: 2 * 1^2 / 3^2
    variance = (3.0 + 3.0 - 1.0) / 9 + 2.0 / 9
    # Hillis: 2 * (5 / 3)^2 = 5.56, capped at E - 1 = 2, where t = 4.302653
    interval = two_way_interval(d)
    assert interval.value == pytest.approx(2.0)
    assert interval.high - interval.value == pytest.approx(4.302653 * math.sqrt(variance), rel=1e-6)
    assert interval.sd == pytest.approx(1.0)
    assert interval.fixed_variance == pytest.approx(4.0 / 9)


def test_seeds_that_agree_by_luck_do_not_make_the_degrees_of_freedom_infinite():
    # Both seeds have the mean 2 but differ everywhere: MS_s = 0, MS_e = 8 * 2 / 3, MS_res = 8 / 3
    d = np.array([[1.0, -1.0, 5.0, 3.0], [-1.0, 1.0, 3.0, 5.0]])
    by_example = np.array([-2.0, -2.0, 2.0, 2.0])
    ms_e, ms_res = 2 * (by_example**2).sum() / 3, 8 / 3
    df = min(((ms_res + ms_e - ms_res) / ms_res) ** 2, 3)
    variance = (ms_e - ms_res) / 8 + 2 * 4 / 16
    interval = two_way_interval(d)
    assert interval.sd == 0.0
    assert interval.high - interval.value == pytest.approx(stdtrit(df, 0.975) * math.sqrt(variance))


def test_two_way_with_agreeing_seeds_rests_on_the_examples():
    # Every seed shows the same differences: MS_s = 0 and MS_res = 0, so infinite degrees of freedom but for the cap.
    examples = np.resize([0.0, 1.0], 400)
    interval = two_way_interval(np.tile(examples, (4, 1)))
    alone = t_interval(examples)
    # Of 400 examples that differ by 1/2 from their mean, two more do not matter: 2 / 400 of the variance.
    assert interval.high - interval.value == pytest.approx((alone.high - alone.value) * math.sqrt(1 + 2 * 399 / 400**2))


def test_two_way_without_any_difference_is_as_wide_as_two_examples():
    interval = two_way_interval(np.zeros((6, 200)), unit=1.0)
    assert interval.value == 0.0
    half = stdtrit(199, 0.975) * math.sqrt(2) / 200
    assert (interval.low, interval.high) == pytest.approx((-half, half))
    # One example that differs in every run must not give a narrower interval than none at all.
    one = np.zeros((6, 200))
    one[:, 0] = 1.0
    assert two_way_interval(one).high - two_way_interval(one).low > 2 * half


def test_two_way_does_not_depend_on_where_a_metric_has_its_zero():
    d = np.random.default_rng(3).normal(size=(5, 20))
    near, far = two_way_interval(d), two_way_interval(d + 1000)
    assert far.high - far.low == pytest.approx(near.high - near.low)
    assert far.value - near.value == pytest.approx(1000)


@pytest.mark.parametrize("shape", [(1, 50), (6, 1), (1, 1)])
def test_two_way_needs_two_seeds_and_two_examples(shape):
    interval = two_way_interval(np.full(shape, 0.25))
    assert interval.value == 0.25
    assert math.isnan(interval.low)


def test_two_way_with_nan_is_unknown_and_a_vector_is_refused():
    d = np.ones((3, 4))
    d[1, 2] = math.nan
    assert math.isnan(two_way_interval(d).value)
    with pytest.raises(ValueError, match=r"shape \(seeds, examples\)"):
        two_way_interval(np.ones(4))


@given(st.integers(2, 5), st.integers(2, 8), st.integers(0, 2**32 - 1), st.floats(0, 2))
def test_two_way_is_never_narrower_than_the_seeds_alone_would_be_with_many_degrees(seeds, examples, seed, spread):
    rng = np.random.default_rng(seed)
    d = rng.normal(size=(seeds, examples)) + spread * rng.normal(size=(1, examples))
    interval = two_way_interval(d)
    half = (interval.high - interval.low) / 2
    assert half >= 1.9599 * d.mean(axis=1).std(ddof=1) / math.sqrt(seeds) - 1e-9
    flipped = two_way_interval(-d)
    assert (flipped.low, flipped.high) == pytest.approx((-interval.high, -interval.low))


def _coverage(draw, truth, num=1000):
    hits = 0
    for _ in range(num):
        interval = two_way_interval(draw(), unit=1.0)
        hits += interval.low <= truth <= interval.high
    return hits / num


@pytest.mark.parametrize(("num_seeds", "num_examples"), [(4, 50), (6, 30), (6, 300)])
@pytest.mark.parametrize("spreads", [(1.0, 1.0, 1.0), (0.0, 1.0, 1.0), (0.5, 0.1, 1.0), (0.0, 0.0, 1.0)])
def test_coverage_gaussian(num_seeds, num_examples, spreads):
    rng = np.random.default_rng(7)
    by_seed, by_example, residual = spreads

    def draw():
        noise = residual * rng.normal(size=(num_seeds, num_examples))
        return 0.3 + by_seed * rng.normal(size=(num_seeds, 1)) + by_example * rng.normal(size=(1, num_examples)) + noise

    assert 0.93 <= _coverage(draw, 0.3) <= 0.98


@pytest.mark.parametrize(("num_seeds", "num_examples"), [(3, 100), (6, 50), (6, 300)])
@pytest.mark.parametrize(("accuracy", "gain", "spread", "noise"), [(0.9, 0.0, 0.3, 0.5), (0.97, 0.02, 0.05, 0.1)])
def test_coverage_accuracy(num_seeds, num_examples, accuracy, gain, spread, noise):
    """Right or wrong answers: examples differ in difficulty, seeds in ability, the arms a little in both."""
    rng = np.random.default_rng(11)
    level = ndtri(accuracy)

    def arm(difficulty, gain, taste):
        own = taste * rng.normal(size=(1, num_examples))
        ability = level + gain + spread * rng.normal(size=(num_seeds, 1))
        return (ability + difficulty + own + noise * rng.normal(size=(num_seeds, num_examples)) > 0).astype(float)

    def draw():
        difficulty = rng.normal(size=(1, num_examples))
        return arm(difficulty, gain, 0.2) - arm(difficulty, 0.0, 0.0)

    variance = 1 + spread**2 + noise**2
    truth = ndtr((level + gain) / math.sqrt(variance + 0.04)) - ndtr(level / math.sqrt(variance))
    assert _coverage(draw, truth) >= 0.93
