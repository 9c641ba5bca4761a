import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.search.checks import SweepError
from sweeps.search.successive_halving import SuccessiveHalving, rungs

finite = st.floats(allow_nan=False, allow_infinity=False)
anything = st.one_of(finite, st.sampled_from([math.nan, math.inf, -math.inf]))
orders = st.randoms(use_true_random=False)


@pytest.mark.parametrize(
    ("grace_period", "max_t", "reduction_factor", "expected"),
    [
        (1, 81, 3, [1, 3, 9, 27]),
        (1, 243, 3, [1, 3, 9, 27, 81]),
        (1, 244, 3, [1, 3, 9, 27, 81, 243]),
        (1, 1000, 10, [1, 10, 100]),
        (1, 1001, 10, [1, 10, 100, 1000]),
        (2, 16, 2, [2, 4, 8]),
        (5, 100, 4, [5, 20, 80]),
        (1, 1, 3, []),
        (1, 2, 3, [1]),
        (4, 4, 2, []),
        (1, 10**18 + 1, 10, [10**k for k in range(19)]),
    ],
)
def test_rungs(grace_period: int, max_t: int, reduction_factor: int, expected: list[int]) -> None:
    assert rungs(max_t, grace_period, reduction_factor) == expected
    assert SuccessiveHalving(max_t, grace_period, reduction_factor).rungs == expected


@pytest.mark.parametrize(
    "arguments", [(0, 1, 3, "max"), (9, 0, 3, "max"), (9, 1, 1, "max"), (9, 1, 2.5, "max"), (9, 1, 3, "best")]
)
def test_wrong_arguments_are_refused(arguments: tuple[int, int, int, str]) -> None:
    with pytest.raises(SweepError):
        SuccessiveHalving(*arguments)


def judge(rule: SuccessiveHalving, values: list[float], t: int = 1) -> list[bool]:
    """Each value arrives as a trial of its own."""
    return [rule.report("fp32", f"trial-{index}", t, value) for index, value in enumerate(values)]


def test_decisions_by_hand() -> None:
    # Room for 1 while n < 6, for 2 while n < 9, then for 3: the last has two better ones, 0.7 and 0.66.
    values = [0.5, 0.4, 0.6, 0.55, 0.7, 0.65, 0.66, 0.1, 0.65]
    assert judge(SuccessiveHalving(27), values) == [True, False, True, False, True, True, True, False, True]


def test_decisions_by_hand_when_room_grows() -> None:
    assert judge(SuccessiveHalving(8, reduction_factor=2), [4, 3, 2, 3.5, 1, 3.5]) == [
        True,  # alone
        False,  # n 2, room 1, one better
        False,  # n 3, room 1, two better
        True,  # n 4, room 2, one better
        False,  # n 5, room 2, four better
        True,  # n 6, room 3, one better, one equal
    ]


def test_the_first_to_arrive_is_not_stopped_for_lack_of_company() -> None:
    rule = SuccessiveHalving(27)
    assert [rule.report("fp32", "alone", t, -1e9) for t in range(1, 28)] == [True] * 27


def test_nothing_is_judged_between_rungs_or_at_the_end() -> None:
    rule = SuccessiveHalving(9)
    assert rule.report("fp32", "best", 1, 1.0)
    assert rule.report("fp32", "best", 2, 0.0)
    assert rule.report("fp32", "best", 9, math.nan) is False  # jumped over the rung at 3
    rule = SuccessiveHalving(3)
    assert rule.report("fp32", "best", 1, 1.0)
    assert rule.report("fp32", "best", 3, math.nan)


def test_a_report_that_jumps_over_rungs_counts_at_each() -> None:
    rule = SuccessiveHalving(27)
    assert rule.report("fp32", "slow", 10, 0.5)
    assert rule.num_recorded("fp32") == [1, 1, 1]
    assert not rule.report("fp32", "worse", 4, 0.4)
    assert rule.num_recorded("fp32") == [2, 1, 1]


def test_strata_do_not_starve_each_other() -> None:
    mixed = SuccessiveHalving(27)
    fast = [mixed.report("bf16-mixed", f"fast-{index}", 1, 0.9 + index / 1000) for index in range(20)]
    slow = [mixed.report("fp16-mixed", f"slow-{index}", 1, 0.1 + index / 1000) for index in range(20)]
    assert fast == slow == [True] * 20
    assert mixed.strata == ["bf16-mixed", "fp16-mixed"]


@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_values_that_are_not_finite_never_go_on_but_count(worst: float, mode: str) -> None:
    rule = SuccessiveHalving(27, mode=mode)
    assert not rule.report("fp32", "diverged", 1, worst)
    assert rule.report("fp32", "fine", 1, -5.0)
    assert rule.num_recorded("fp32") == [2, 0, 0]
    assert rule.num_stopped == 1
    # With two diverged ones n is 3, 4, 5, 6: the sixth arrival finds room for two.
    judged = [rule.report("fp32", "diverged-2", 1, worst)]
    for name, better in (("a", 1.0), ("b", 2.0), ("c", 1.0)):
        judged.append(rule.report("fp32", name, 1, better if mode == "max" else -5.0 - better))
    assert judged == [False, True, True, True]


def test_ties_survive() -> None:
    assert judge(SuccessiveHalving(27), [0.5] * 10) == [True] * 10


def test_repeated_reports_change_nothing() -> None:
    rule = SuccessiveHalving(9)
    reports = [("a", 1, 0.5), ("b", 1, 0.4), ("a", 2, 0.6), ("a", 3, 0.7), ("c", 1, 0.9), ("c", 3, 0.1)]
    first = [rule.report("fp32", *report) for report in reports]
    again = [rule.report("fp32", *report) for report in reports]
    assert first == again == [True, False, True, True, True, False]
    assert rule.num_recorded("fp32") == [3, 2]
    assert rule.num_stopped == 2


def test_a_stopped_trial_stays_stopped_and_out_of_later_rungs() -> None:
    rule = SuccessiveHalving(9)
    judge(rule, [0.5, 0.4])
    assert not rule.report("fp32", "trial-1", 3, 100.0)
    assert rule.num_recorded("fp32") == [2, 0]


@given(st.lists(anything, min_size=1, max_size=40), st.integers(2, 5), st.integers(1, 60), orders)
def test_the_best_is_never_stopped(values: list[float], eta: int, max_t: int, order: random.Random) -> None:
    """Whatever the order of arrival, and however trials interleave."""
    rule = SuccessiveHalving(max_t, reduction_factor=eta)
    clocks = dict.fromkeys(range(len(values)), 0)
    running = list(clocks)
    while running:
        index = order.choice(running)
        clocks[index] += 1
        goes_on = rule.report("fp32", str(index), clocks[index], values[index])
        if math.isfinite(values[index]) and values[index] == max(filter(math.isfinite, values)):
            assert goes_on
        if not goes_on or clocks[index] >= max_t:
            running.remove(index)


@given(st.lists(anything, max_size=60), st.integers(2, 5))
def test_a_decision_is_the_rank_among_those_recorded(values: list[float], eta: int) -> None:
    for count, goes_on in enumerate(judge(SuccessiveHalving(2, reduction_factor=eta), values), start=1):
        value = values[count - 1]
        better = sum(other > value for other in values[:count] if math.isfinite(other))
        assert goes_on == (math.isfinite(value) and better < max(1, count // eta))


@given(st.lists(st.integers(-50, 50), max_size=60), st.integers(2, 5))
def test_only_ranks_matter(values: list[int], eta: int) -> None:
    plain = judge(SuccessiveHalving(9, reduction_factor=eta), [float(value) for value in values])
    relabelled = judge(SuccessiveHalving(9, reduction_factor=eta), [math.exp(value / 9) - 3 for value in values])
    assert plain == relabelled


@given(st.lists(anything, max_size=60), st.integers(2, 5))
def test_min_mirrors_max(values: list[float], eta: int) -> None:
    lowest = judge(SuccessiveHalving(9, reduction_factor=eta, mode="min"), values)
    assert lowest == judge(SuccessiveHalving(9, reduction_factor=eta), [-value for value in values])
