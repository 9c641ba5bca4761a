"""Drivers that end together with their Ray."""

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from drivers import driver, errors_of

from analysis import load
from analysis.schema import ResultsError
from sweeps.engine import leaving
from sweeps.engine.leaving import arrive, is_ray_silent, leave
from sweeps.engine.stages import KEPT


def test_what_ray_leaves_unanswered_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "LEAVE_S", 0.05)
    asked, never = [], threading.Event()
    assert leave(lambda: asked.append("first"))
    assert leave(lambda: [][0])  # there is nothing left to ask for
    assert not is_ray_silent()
    try:
        assert not leave(never.wait)
        assert not leave(lambda: asked.append("second"))
        assert is_ray_silent()
    finally:
        never.set()
        arrive()
    assert leave(lambda: asked.append("third"))
    assert asked == ["first", "third"]


def has_reported(folder: Path) -> bool:
    try:
        return len(load(folder).history) > 0
    except ResultsError:
        return False


@pytest.mark.ray
def test_a_driver_that_is_told_to_end_with_its_ray_and_all_workers_ends_in_good_order(tmp_path: Path) -> None:
    folder = tmp_path / "first"
    with driver(tmp_path, "--address", "local", "--max-epochs", "400", "--scheduler", "fifo") as process:
        deadline = time.monotonic() + 120
        while not has_reported(folder):
            assert process.is_alive(), errors_of(tmp_path)
            assert time.monotonic() < deadline
            time.sleep(0.1)
        below = psutil.Process(process.pid).children(recursive=True)
        for pid in (process.pid, *(each.pid for each in below)):
            os.kill(pid, signal.SIGTERM)
        process.join(45)  # Ray's own wait is of a minute
        assert process.exitcode == 1
    errors = errors_of(tmp_path)
    assert errors.splitlines()[-1] == f"error: interrupted; {KEPT}"
    assert "Traceback" not in errors
    assert set(load(folder).trials.query("stage == 'search'")["status"]) <= {"running", "lost"}
    assert not psutil.wait_procs(below, timeout=20)[1]
