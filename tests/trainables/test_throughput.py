"""Timing by turns, on a clock that the models themselves move: every figure is exact."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from trainables import throughput
from trainables.throughput import PATIENCE, Timed, time_both

CPU = torch.device("cpu")


class Clock:
    """Seconds that pass only where a model is called; a disturbed one adds as much that a thread waited."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.waited, self.disturbed, self.calls = 0.0, 0, lambda number: False, ""
        monkeypatch.setattr(throughput.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(throughput, "waiting_ns", lambda: {"1": self.waited})

    def side(self, name: str, seconds: Callable[[int], float], batch: Any = (8, 8)) -> Timed:
        def call(batch: torch.Tensor) -> None:
            self.now += seconds(len(self.calls))
            if self.disturbed(len(self.calls)):
                self.waited += int(1e9 * seconds(len(self.calls)))
            self.calls += name

        return Timed(call, nullcontext, [torch.zeros(size) for size in batch])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_models_take_turns_over_the_same_batches(clock: Clock) -> None:
    sides = clock.side("a", lambda number: 0.03, (8, 4)), clock.side("b", lambda number: 0.06, (8, 4))
    (fast, slow), contended = time_both(sides, 2, CPU)
    assert fast == pytest.approx([200.0, 200.0])  # 12 samples in 0.06 s
    assert slow == pytest.approx([100.0, 100.0])
    assert contended is False
    warmed_up = 3 * len("aaa") * 2  # a batch that is not timed, and two that are, three times, of both sides
    assert clock.calls[warmed_up:] == "".join(3 * name for name in "abba" + "baab")


def test_windows_last_as_long_whatever_the_model_s_speed(clock: Clock) -> None:
    sides = clock.side("a", lambda number: 0.001), clock.side("b", lambda number: 0.2)
    (fast, slow), _ = time_both(sides, 3, CPU)
    assert fast == pytest.approx([8000.0] * 3)
    assert slow == pytest.approx([40.0] * 3)
    timed = clock.calls.removeprefix("aaa" * 3 + "bbb" * 3)
    assert timed.startswith("a" * 51 + "bbb" * 2)  # 50 ms, in whole passes; one pass


def test_a_machine_that_slows_down_steadily_favours_neither(clock: Clock) -> None:
    """Each call takes a fixed factor longer than the one before, which cancels in A B B A."""
    same = [lambda number: 0.03 * 1.01**number] * 2
    (one, other), _ = time_both((clock.side("a", same[0]), clock.side("b", same[1])), 4, CPU)
    assert one == pytest.approx(other)
    assert one[0] > one[-1]


def test_disturbed_rounds_are_run_again_and_a_disturbed_machine_is_told(clock: Clock) -> None:
    num = 12  # calls of a round
    clock.disturbed = lambda number: 18 + num <= number < 18 + num + 2
    rates, contended = time_both((clock.side("a", lambda n: 0.03), clock.side("b", lambda n: 0.03)), 3, CPU)
    assert [len(rate) for rate in rates] == [3, 3]
    assert contended is False
    assert len(clock.calls) == 18 + 4 * num
    clock.disturbed, clock.calls = lambda number: True, ""
    rates, contended = time_both((clock.side("a", lambda n: 0.03), clock.side("b", lambda n: 0.03)), 3, CPU)
    assert PATIENCE == 2
    assert [len(rate) for rate in rates] == [4] * 2  # of six, too few can be clean once four are not
    assert contended is True
