"""Drivers that end together with their Ray."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from drivers import driver, errors_of

from analysis import load
from analysis.schema import ResultsError
from sweeps.engine import cli, leaving
from sweeps.engine.leaving import is_ray_silent, leave
from sweeps.engine.stages import KEPT


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """What listens where Ray's does."""
    listens = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(leaving, "_ray", leaving._Ray(f"127.0.0.1:{listens.getsockname()[1]}"))
    return listens


def test_what_ray_leaves_unanswered_is_not_asked_again_once_it_has_gone(
    gcs: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaving, "LEAVE_S", 0.05)
    asked, never = [], threading.Event()
    with gcs:
        assert leave(lambda: asked.append("first"))
        assert leave(lambda: [][0])  # there is nothing left to ask for
        assert leave(lambda: never.wait(1.2))  # a Ray that is slow is waited for
        assert not is_ray_silent()
    assert not leave(never.wait)
    assert not leave(lambda: asked.append("second"))
    assert is_ray_silent()
    assert asked == ["first"]
    never.set()


def test_a_signal_while_ray_is_asked_says_that_it_has_not_answered(heeds_sigint: None, gcs: socket.socket) -> None:
    def interrupt_and_wait() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        never.wait()

    never = threading.Event()
    with gcs, pytest.raises(KeyboardInterrupt):
        leave(interrupt_and_wait)
    assert is_ray_silent()
    never.set()


def test_a_driver_whose_streams_were_closed_has_some() -> None:
    look = "cli._open_streams(); print('', file=sys.stderr); [os.fstat(number) for number in range(3)]; os._exit(7)"
    code = f"import os, sys; from sweeps.engine import cli; {look}"
    closed = ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code]
    assert subprocess.run(closed, check=False).returncode == 7


def test_a_driver_without_output_leaves_a_silent_ray_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(cli, "is_ray_silent", lambda: True)
    monkeypatch.setattr(os, "_exit", left.append)
    for stream in (None, open("/dev/full", "w")):  # noqa: SIM115 - closing it fails
        if stream is not None:
            stream.write("not written yet")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            with pytest.raises(SystemExit):
                cli._quit(1)
    assert left == [1, 1]


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
