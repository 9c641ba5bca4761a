"""A driver as a submitted job: told to end, and with results in a folder that will not last."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeps.engine import cli, mirror
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

    with pytest.raises(Unfinished, match=rf"\(interrupted\); all .* lies in {home.folder}"), home.kept():
        monkeypatch.setattr(Mirror, "copy", cut_short)
    assert (home.folder / "sweep.json").exists()


def test_who_interrupts_a_run_is_told_where_its_results_lie_when_the_store_fails(home: Home, tmp_path: Path):
    with pytest.raises(
        Unfinished, match=rf"can no longer be written .* all that was measured lies in {home.folder} on"
    ):
        end_without_a_store(home, tmp_path / "store", KeyboardInterrupt())
    assert (home.folder / "sweep.json").exists()


def end_without_a_store(home: Home, store: Path, end: BaseException) -> None:
    with home.kept():
        break_down(store)
        raise end


def break_down(store: Path) -> None:
    """Has a store refuse all that is asked of it."""
    shutil.rmtree(store)
    store.write_text("no folder any more")


def test_a_run_that_could_not_go_on_tells_of_its_store_too(home: Home, tmp_path: Path):
    with pytest.raises(Unfinished, match=rf"^workers died; storage: .* lies in {home.folder} on"):
        end_without_a_store(home, tmp_path / "store", Unfinished("workers died"))
    assert (home.folder / "sweep.json").exists()


def test_a_store_that_comes_back_within_a_minute_has_all_in_the_end(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mirror, "EVERY_S", 0.05)
    store, copy, failures = tmp_path / "store", Mirror.copy, []

    def copy_and_mend(self: Mirror) -> None:
        copy(self)
        if store.is_file() and self._stopped.is_set():
            failures.append(self._error)
            store.unlink()

    monkeypatch.setattr(Mirror, "copy", copy_and_mend)
    with home.kept():
        (home.folder / "sweep.json").write_text('{"ended": 1}')
        break_down(store)
    assert len(failures) == 1
    assert (store / "run" / "sweep.json").read_text() == '{"ended": 1}'
    assert not home.folder.exists()


def test_who_interrupts_the_wait_for_a_store_is_told_where_the_results_lie(
    heeds_sigint: None, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(seconds: float) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(mirror.time, "sleep", interrupt)
    with pytest.raises(Unfinished, match=rf"all that was measured lies in {home.folder} on"), home.kept():
        break_down(tmp_path / "store")
    assert (home.folder / "sweep.json").exists()


def test_results_in_a_store_outlive_the_copy_on_the_driver_s_disk(home: Home, tmp_path: Path):
    with home.kept():
        kept = tmp_path / "store" / "run" / "checkpoints"
        kept.mkdir()
        shutil.rmtree(home.folder)  # as those do that clean temporary folders
    assert kept.exists()


def test_a_driver_whose_lock_another_one_took_over_ends_and_leaves_it(
    heeds_sigint: None, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mirror, "EVERY_S", 0.05)
    lock = tmp_path / "store" / "run" / "lock"
    theirs = b'{"owner": "of a driver that thought this one dead", "at": "today"}'
    told = rf"run_name: must not be in use by another driver, got .* lie in {home.folder} on"
    with pytest.raises(Unfinished, match=told):
        run_on(home, lock, theirs)
    assert lock.read_bytes() == theirs
    assert (home.folder / "sweep.json").exists()


def run_on(home: Home, lock: Path, theirs: bytes) -> None:
    """Runs for half a minute beside a driver that signs a lock again and again."""
    with home.kept():
        for _ in range(1500):
            lock.write_bytes(theirs)
            time.sleep(0.02)


def test_the_last_line_names_the_store_and_not_the_copy_of_it(tmp_path: Path):
    store = "s3://key:hidden@bucket/sweeps?scheme=http"
    assert cli._where(store, {"first": tmp_path / "first"}) == "s3://bucket/sweeps/first"
    assert cli._where("runs", {"first": Path("runs/first")}) == "runs/first"
