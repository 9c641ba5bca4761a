"""Plans: by hand where the arithmetic is short, by drawing where it is not."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import nctdtr, stdtrit

from analysis.intervals import Interval, t_interval
from analysis.planning import pairs_for_width, pairs_needed


def interval(value, num, sd=1.0, fixed=0.0):
    return Interval(value, math.nan, math.nan, num, sd, fixed)


def power(num, distance):
    return 1 - nctdtr(num - 1, distance * math.sqrt(num), stdtrit(num - 1, 0.975))


def least(distance):
    """The least number of pairs that show a distance, in their standard deviation, four times in five."""
    return next(num for num in range(2, 1001) if power(num, distance) >= 0.8)


def test_half_a_standard_deviation_needs_34_pairs():
    assert least(0.5) == 34  # as in Cohen's tables


@pytest.mark.parametrize("value", [0.4, -0.4, 0.6, 0.8])
def test_what_six_pairs_show_is_not_taken_for_the_truth(value):
    assert pairs_needed(interval(value, 6), 0.0) == 34
    assert pairs_needed(interval(10 + 3 * value, 6, sd=3.0), 10.0) == 34


def test_the_plan_is_for_the_least_distance_that_the_data_allow():
    # 9 pairs, 1.5 standard deviations off: t = 4.5, its bound 0.841621 sqrt(1 + 4.5^2 / 16) = 1.267 below
    assert pairs_needed(interval(1.5, 9), 0.0) == max(10, least((4.5 - 0.841621 * math.sqrt(1 + 4.5**2 / 16)) / 3))
    assert pairs_needed(interval(1.2, 3), 0.0) == least(
        (1.2 * math.sqrt(3) - 0.841621 * math.sqrt(2.08)) / math.sqrt(3)
    )


def test_the_plan_is_for_the_largest_distance_that_the_data_allow_where_that_is_small():
    # 100 pairs, 0.05 standard deviations off: t = 0.5, so at most 1.343 standard errors
    assert pairs_needed(interval(0.05, 100), 0.0) == least((0.5 + 0.841621 * math.sqrt(1 + 0.25 / 198)) / 10)
    assert pairs_needed(interval(0.0, 200), 0.0) is None


def test_plans_count_the_pairs_at_hand_and_give_up():
    assert pairs_needed(interval(5.0, 20), 0.0) == 21
    assert pairs_needed(interval(0.4, 6), 0.0, most=33) is None
    assert pairs_needed(interval(1.0, 1, sd=math.nan), 0.0) is None
    assert pairs_needed(interval(1.0, 4, sd=0.0), 0.0) == 5
    assert pairs_needed(interval(1.0, 4, sd=0.0), 1.0) is None


def test_more_pairs_do_not_reduce_the_spread_of_the_examples():
    assert pairs_needed(interval(0.8, 6, fixed=0.3), 0.0) is None
    few = pairs_needed(interval(0.8, 6, fixed=0.02), 0.0)
    assert few is not None
    assert few > 34
    assert pairs_needed(interval(0.5, 6, sd=0.0, fixed=0.1), 0.0) is None


@settings(max_examples=40)
@given(st.floats(-2, 2), st.integers(2, 40), st.floats(0.01, 100), st.floats(-50, 50))
def test_plans_do_not_depend_on_the_unit_or_the_side(value, num, unit, zero):
    plan = pairs_needed(interval(value, num), 0.0)
    assert pairs_needed(interval(-value, num), 0.0) == plan
    scaled = pairs_needed(interval(zero + unit * value, num, sd=unit), zero)
    assert (scaled is None) == (plan is None)
    assert plan is None or abs(scaled - plan) <= 1


def test_a_width_is_reached_four_times_in_five():
    num = pairs_for_width(interval(0.0, 6, sd=0.06), 0.1)
    assert num is not None
    drawn = np.random.default_rng(5).normal(scale=0.06, size=(2000, num))

    def share(size):
        intervals = [t_interval(values[:size]) for values in drawn]
        return np.mean([one.high - one.low <= 0.1 for one in intervals])

    assert 0.77 < share(num) < 0.9
    assert share(num - 3) < 0.77
    assert pairs_for_width(interval(0.0, 6, sd=5.0), 0.1) is None
    assert pairs_for_width(interval(0.0, 1, sd=math.nan), 0.1) is None
