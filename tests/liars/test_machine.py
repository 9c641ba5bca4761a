"""What a machine does to a measurement, by the real clock: neighbours that are named, models too small to gain."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from planted import BOTH, Confirmed, spec, widths

from trainables import pairs
from trainables.pairs import time_block
from trainables.spec import TimingJob

pytestmark = pytest.mark.quiet

BUSY = "while True: pass"
IDLE = "import time; time.sleep(100)"


@contextmanager
def neighbour(code: str) -> Iterator[int]:
    """Another process on the only processor that this one may use; its id."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield other.pid
    finally:
        os.sched_setaffinity(0, allowed)
        other.kill()
        other.wait()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux, which pins processes to processors")
def test_a_busy_neighbour_is_noticed_and_named(draw: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its idle twin is not, whatever else this machine may be doing."""
    monkeypatch.setattr(pairs, "PATIENCE", 1)
    job = TimingJob(spec("waits", draw, "fp32", lies=False), BOTH, windows=draw.randint(1, 2))
    for code, disturbs in ((BUSY, True), (IDLE, False)):
        with neighbour(code) as pid:
            record = time_block(job)
        assert record["status"] == "completed"
        assert (f"(pid {pid}, " in (record["contention"] or "")) is disturbs
        assert record["contended"] is True or not disturbs


def test_a_model_so_small_that_amp_slows_it(
    draw: random.Random, confirmed: Confirmed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its twin, which really is twice as fast, passes by the virtual clock in the tests of arms."""
    monkeypatch.setattr(pairs, "MIN_WINDOW_MS", 2.0)
    own = {"case": "is_tiny", "learning_rate": 1e-3, "batch_size": 8, "widths": widths(draw)}
    verdict = confirmed(own)
    assert verdict.verdict != "PASS", verdict.reason
    assert verdict.speedup < 1.5
