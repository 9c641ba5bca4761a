"""A driver as a submitted job: told to end, and with results in a folder that will not last."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.engine.folders import Home
from sweeps.engine.mirror import Mirror
from sweeps.search.checks import Unfinished
from trainables.storage import Url

TOLD_TWICE = """
import os, signal, time
from sweeps.engine import cli

def command():
    try:
        print("under way", flush=True)
        time.sleep(60)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("all is written", flush=True)

cli._exit(command)
"""


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_cuts_nothing_short(told: signal.Signals) -> None:
    heeding = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # tests may run under nohup
    words = [sys.executable, "-c", heeding + TOLD_TWICE]
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "under way\n"
    driver.send_signal(told)
    assert driver.communicate(timeout=60) == ("all is written\n", "error: interrupted\n")
    assert driver.returncode == 1


def test_what_runs_under_nohup_goes_on_without_its_terminal() -> None:
    told = "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from sweeps.engine import cli; "
    told += "cli._exit(lambda: os.kill(os.getpid(), signal.SIGHUP) or 7)"
    assert subprocess.run([sys.executable, "-c", told], check=False).returncode == 7


def test_results_in_ray_s_copy_of_the_working_directory_are_warned_of() -> None:
    copy = Path("/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_1/runs/first")
    assert "--storage" in Home(copy).caution
    assert Home(Path("runs/first")).caution == Home(copy, Url("s3://bucket/first")).caution == ""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A run whose results go to a store, which is a folder here."""
    folder = tmp_path / "copy" / "run"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text("{}")
    return Home(folder, Url(f"file://{tmp_path}/store/run"))


def test_the_driver_s_copy_stays_where_the_last_copying_was_cut_short(home: Home, monkeypatch: pytest.MonkeyPatch):
    def cut_short(mirror: Mirror) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), home.kept():
        monkeypatch.setattr(Mirror, "copy", cut_short)
    assert (home.folder / "sweep.json").exists()


def test_who_interrupts_a_run_is_told_where_its_results_lie_when_the_store_fails(home: Home, tmp_path: Path):
    with pytest.raises(
        Unfinished, match=rf"can no longer be written .* all that was measured lies in {home.folder} on"
    ):
        interrupt_without_a_store(home, tmp_path / "store")
    assert (home.folder / "sweep.json").exists()


def interrupt_without_a_store(home: Home, store: Path) -> None:
    with home.kept():
        (store / "run" / "lock").unlink()
        (store / "run").rmdir()
        store.rmdir()
        store.write_text("no folder any more")
        raise KeyboardInterrupt
