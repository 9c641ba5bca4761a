"""Samples per second of two models, timed in alternating windows of forward passes over the same batches."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from trainables.contention import is_contended, waiting_ns
from trainables.outputs import batch_length
from trainables.pairs import MIN_WINDOW_MS
from trainables.task import Batch

KEPT_BATCHES = 4
"""The first batches, which stay on the device; a window goes through all of them, once or more often."""

PATIENCE = 2
"""Rounds are repeated, up to this many times the wanted ones in all, while enough of them may still be clean."""


@dataclass(frozen=True)
class Timed:
    """A model to be timed.

    Args:
        call: its forward pass.
        in_force: a context with all settings that it runs under.
        batches: on its device.
    """

    call: Callable[[Batch], Any]
    in_force: Callable[[], AbstractContextManager[None]]
    batches: Sequence[Batch]


def time_both(
    sides: tuple[Timed, Timed], rounds: int, device: torch.device
) -> tuple[tuple[list[float], list[float]], bool | None]:
    """Times both sides in rounds of four windows: A B B A, and B A A B in every second one.

    So a machine whose speed drifts within a round favours neither. Each window lasts about as long, and goes over all
    batches equally often. A round that other work disturbed is run again, up to a limit; once that leaves no room for
    enough clean ones, the disturbed ones count, too.

    Args:
        sides: with the same batches, up to their dtypes.
        rounds: at least 1.
        device: that both run on.

    Returns:
        samples per second of each side, (rounds,) geometric means of two windows; and whether what was kept is
        contended, ``None`` where the system does not tell.
    """
    passes = [_passes(side, device) for side in sides]
    clean: list[list[float]] = []
    every: list[list[float]] = []
    contended: bool | None = None
    while len(clean) < rounds <= len(clean) + PATIENCE * rounds - len(every):
        first = len(clean) % 2
        windows: list[list[float]] = [[], []]
        waited = []
        for index in (first, 1 - first, 1 - first, first):
            seconds, share = _window(sides[index], passes[index], device)
            windows[index].append(seconds)
            waited.append(share)
        every.append([math.sqrt(math.prod(seconds)) for seconds in windows])
        contended = is_contended(waited)
        if not contended:
            clean.append(every[-1])
    enough = len(clean) >= rounds
    samples = sum(batch_length(batch) for batch in sides[0].batches)
    kept = clean if enough else every
    rates = [[passes[index] * samples / seconds[index] for seconds in kept] for index in (0, 1)]
    return (rates[0], rates[1]), contended if enough else True


def _passes(side: Timed, device: torch.device) -> int:
    """How often a window goes over the batches, seen after a pass that warms up."""
    seconds = min(_window(side, 1, device)[0] for _ in range(3))
    return max(1, math.ceil(MIN_WINDOW_MS / 1e3 / seconds))


def _window(side: Timed, passes: int, device: torch.device) -> tuple[float, float | None]:
    """Seconds of a window, without a first batch that warms the caches; the share of them that a thread waited."""
    with side.in_force():
        side.call(side.batches[-1])
        _wait(device)
        before, started = waiting_ns(), time.perf_counter()
        for _ in range(passes):
            for batch in side.batches:
                side.call(batch)
        _wait(device)
        seconds = time.perf_counter() - started
        after = waiting_ns()
    longest = max((after[thread] - before.get(thread, 0) for thread in after), default=None)
    return seconds, None if longest is None else longest / 1e9 / seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # pragma: gpu
