"""What is run in which order, within a time that is not exceeded."""

import signal
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from benchmarks.gpu.record import Record, Row
from trainables.loading import describe
from trainables.memory import is_out_of_memory, release_memory

LEFT_OUT = "left out: time"


@dataclass(frozen=True)
class Part:
    """One thing to run.

    Args:
        item, arm: of its row where it gives none.
        share: of the whole time that must not be over when it ends; later parts have larger ones.
        estimate_s: how long it may take, until a part of its ``kind`` has run and told.
        kind: of parts that take about as long.
        run: gives its rows.
        unsupported: why the device cannot; ``None`` where it can.
    """

    item: str
    arm: str
    share: float
    estimate_s: float
    kind: str
    run: Callable[[], list[Row]]
    unsupported: str | None = None


class OutOfTime(BaseException):
    """The whole time is over; no ``except Exception`` on the way holds it up."""


def run_all(parts: Sequence[Part], record: Record, device: torch.device, seconds: float) -> None:
    """Runs parts in order, each one that still fits into its share, and records a row for each that does not.

    Args:
        parts: in order.
        record: where rows go.
        device: whose memory is given back after each.
        seconds: the whole time.
    """
    started = time.monotonic()
    known: dict[str, float] = {}
    for part in parts:
        began = time.monotonic()
        spent = began - started
        if part.unsupported is not None:
            record.add(Row(part.item, part.arm, "unsupported", part.unsupported))
        elif part.share * seconds - spent < known.get(part.kind, part.estimate_s):
            record.add(Row(part.item, part.arm, LEFT_OUT))
        else:
            for row in _attempt(part, seconds - spent):
                record.add(row)
            release_memory(device)
            known[part.kind] = time.monotonic() - began


def _attempt(part: Part, seconds: float) -> list[Row]:
    """A part's rows, or one that says what became of it."""
    try:
        with _alarm(seconds):
            return part.run()
    except OutOfTime:
        return [Row(part.item, part.arm, LEFT_OUT, "cut off when the time was over")]
    except Exception as error:
        status = "out_of_memory" if is_out_of_memory(error) else "errored"
        return [Row(part.item, part.arm, status, describe(error))]


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises :class:`OutOfTime` inside once the seconds are over, and again for what swallows it, as destructors do."""

    def ring(number: int, frame: types.FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), 5.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
