"""Contestants timed in windows of steps, in turns: A B, B A, A B, ..."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Train = Callable[[int], object]
"""Trains for some steps."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Args:
        windows: of each contestant; even, so that as many come first as second.
        window_ms: least length of one.
        warm_up: steps before the first.
        products_s: seconds for matrix products.
    """

    windows: int
    window_ms: float
    warm_up: int
    products_s: float


FULL, TINY_EFFORT = Effort(6, 300.0, 5, 12.0), Effort(2, 1.0, 1, 0.1)


def take_turns(contestants: Mapping[str, Train], device: torch.device, effort: Effort) -> dict[str, list[float]]:
    """Ms a step of each, in each of its windows; all train as many steps a window.

    Args:
        contestants: warm.
        device: where they train.
        effort: how much is measured.
    """
    quickest = min(_window_ms(train, 2, device) for train in contestants.values())
    num_steps = max(2, math.ceil(effort.window_ms / quickest))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(effort.windows):
        for name in list(contestants)[:: 1 if number % 2 == 0 else -1]:
            times[name].append(_window_ms(contestants[name], num_steps, device))
    return times


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def _window_ms(train: Train, num_steps: int, device: torch.device) -> float:
    """Ms a step, from before the first one is launched until the device has done the last."""
    if device.type != "cuda":
        started = time.perf_counter()
        train(num_steps)
        return 1e3 * (time.perf_counter() - started) / num_steps
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    train(num_steps)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / num_steps
