"""A small part of `benchmarks.simulation`: the bounds are binomial errors away from 95 %, and the seeds are fixed."""

import math
from functools import partial

import numpy as np
import pytest

from analysis import evidence as gathered
from analysis import planning, power
from analysis.intervals import Interval, t_interval
from benchmarks import draws, simulation

NUM = 500
SLACK = 3.5 * math.sqrt(0.95 * 0.05 / NUM)
"""Of the 95 % themselves: a right interval misses it once in 2,000 seeds, and this seed is fixed."""


def equal_arms(num_pairs=6):
    return simulation.equal_arms(draws.NOISES["medium"], num_pairs, NUM, np.random.default_rng(1))


def covered(found, what="speed-up"):
    return abs(found[what] / NUM - 0.95) <= SLACK


def test_equal_arms():
    found = equal_arms()
    assert covered(found)
    assert found["accuracy"] / NUM >= 0.95 - SLACK  # more where few examples differ
    assert found["PASS at 1.0"] / NUM <= 0.025 + SLACK
    assert found["PASS at 1.5"] == 0
    assert found["INVALID at 1.0"] / NUM <= 0.01
    assert found["FAIL at 1.5"] / NUM > 0.99


def normal(values):
    """A normal distribution's interval, where Student's is due."""
    interval = t_interval(values)
    half = 1.96 * interval.sd / math.sqrt(interval.num)
    return Interval(interval.value, interval.value - half, interval.value + half, interval.num, interval.sd)


def too_narrow(values):
    interval = t_interval(values)
    half = (interval.high - interval.value) / math.sqrt(interval.num)
    return Interval(interval.value, interval.value - half, interval.value + half, interval.num, interval.sd)


@pytest.mark.parametrize("broken", [normal, too_narrow])
def test_a_broken_interval_does_not_cover(broken, monkeypatch):
    monkeypatch.setattr(gathered, "t_interval", broken)
    assert not covered(equal_arms())


@pytest.mark.parametrize("num_pairs", [6, 20])
def test_metrics(num_pairs):
    found = simulation.metrics(draws.NOISES["high"], num_pairs, NUM, np.random.default_rng(2))
    assert covered(found, "loss")
    assert covered(found, "lower accuracy")


def advised(num=120):
    found, _ = simulation.advised(draws.NOISES["medium"], 6, num, np.random.default_rng(3))
    assert found["open"] > num / 2
    return found["decided"] / found["open"]


def test_advice_decides_and_what_the_data_show_taken_for_the_truth_would_not(monkeypatch):
    assert advised() > 0.8
    monkeypatch.setattr(planning, "_noncentrality", lambda t, num: t)
    monkeypatch.setattr(power, "pairs_needed", partial(planning.pairs_needed.__wrapped__, power=0.5))
    assert advised() < 0.75


def test_the_noise_is_what_it_says():
    noise = draws.Noise(0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    times = draws.step_times(noise, 50, 10, math.log(2), np.random.default_rng(4))
    assert times.shape == (50, 10, 3, draws.NUM_WINDOWS)
    assert set(np.unique(times[:, :, 0].round(6))) == {20.0, 40.0}
    assert set(np.unique(times[:, :, 1].round(6))) == {10.0, 20.0}
    assert 0.09 < (times[:, :, 0] > 30).mean() < 0.11
    right, truth = draws.answers(draws.NOISES["high"], 400, 4, 0.3, np.random.default_rng(5))
    assert right[0].mean() == pytest.approx(draws.ACCURACY, abs=0.005)
    assert (right[1] - right[0]).mean() == pytest.approx(truth, abs=0.005)


def test_a_cell_outside_its_bounds_is_named():
    good = {column: (low + high) / 2 for column, low, high in simulation.COLUMNS}
    assert simulation.outside(good) == []
    assert simulation.outside(good | {"speed-up": 0.92, "decided": 0.79, "PASS at 1.5": 0.001}) == [
        "speed-up",
        "PASS at 1.5",
        "decided",
    ]
