"""How a run's copy to an object store begins and ends; the store is a folder here, which pyarrow takes for one."""

import io
import json
from pathlib import Path

import pytest
from drivers import declared

from analysis import load
from sweeps import SweepError
from sweeps.engine import mirror
from sweeps.engine.dry_run import describe
from sweeps.engine.folders import Home, home_in_store
from sweeps.engine.mirror import Mirror
from sweeps.engine.unfinished import find_run
from sweeps.search.checks import Unfinished
from trainables.storage import Url

TAKEN = b"of another driver"
DECLARED = {"schema": 1, "name": "resumed", "run_name": "run", "metric": "val_loss", "mode": "min"}
ROW = {"kind": "trial", "trial_id": "a", "stage": "search", "precision": "fp32"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Url:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(mirror.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(mirror, "STALE_S", 0.0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    return Url(f"file://{tmp_path}/store")


def begin(url: Url) -> None:
    """A run as a driver leaves it that was killed after its first trial began."""
    told = DECLARED | {"precisions": [], "baselines": [], "space": {}}
    (url / "sweep.json").write(io.BytesIO(json.dumps(told).encode()))
    add(url, 0, "running")


def add(url: Url, number: int, status: str) -> None:
    line = json.dumps(ROW | {"status": status}).encode() + b"\n"
    (url / "journal" / f"20261123T101500-7-{number}.jsonl").write(io.BytesIO(line))


def test_what_the_driver_before_writes_until_the_lock_is_taken_is_not_missed(store: Url, tmp_path: Path):
    url = store / "run"
    begin(url)
    home = find_run(declared(store.text, run_name=None, name="resumed"))
    assert home.folder.name == "run"
    add(url, 1, "completed")
    with home.kept():
        assert load(home.folder).trials["status"].tolist() == ["completed"]
    assert not any((tmp_path / "scratch").iterdir())
    assert [file.name for file in sorted((tmp_path / "store" / "run" / "journal").iterdir())] == [
        "20261123T101500-7-0.jsonl",
        "20261123T101500-7-1.jsonl",
    ]


def test_a_driver_that_is_kept_out_says_what_it_waits_for_and_leaves_nothing_here(
    store: Url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    begin(store / "run")
    home = find_run(declared(store.text, run_name="run"))
    monkeypatch.setattr(mirror, "STALE_S", 60.0)
    (store / "run" / "lock").write(io.BytesIO(TAKEN))
    monkeypatch.setattr(
        mirror.time, "sleep", lambda seconds: (store / "run" / "lock").write(io.BytesIO(TAKEN + b", later"))
    )
    with pytest.raises(SweepError, match="must not be in use by another driver"), home.kept():
        raise AssertionError("it was let in")
    assert not any((tmp_path / "scratch").iterdir())
    assert f"storage {store.text}/run waits up to 60 s to see whether another driver" in capsys.readouterr().out


def test_a_dry_run_leaves_no_copy_here(store: Url, tmp_path: Path):
    begin(store / "run")
    assert describe(declared(store.text, run_name="run", resume=True))
    assert not any((tmp_path / "scratch").iterdir())


def test_a_store_that_fails_after_the_sweep_is_no_bad_input(store: Url):
    begin(store / "run")
    assert len(Home(Path("unused"), store / "run").results().trials) == 1
    with pytest.raises(Unfinished, match=r"must be the URL of a sweep .* the sweep has ended"):
        Home(Path("unused"), store / "gone").results()


def test_what_is_taken_back_is_not_another_driver_s(store: Url, tmp_path: Path):
    home = home_in_store(store / "run", "run")
    home.folder.mkdir(parents=True)
    with home.kept(lambda: True):
        begin(store / "run")
        (store / "run" / "lock").write(io.BytesIO(TAKEN))
    assert (store / "run" / "lock").read() == TAKEN
    assert len(load((store / "run").text).trials) == 1
    with home_in_store(store / "other", "other").kept(lambda: True):
        assert (store / "other" / "lock").exists()
    assert not (store / "other" / "lock").exists()


def test_who_interrupts_the_last_copy_is_told_where_the_results_lie(
    store: Url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(self: Mirror) -> None:
        raise KeyboardInterrupt

    (tmp_path / "sweep.json").write_text("{}")
    copying = Mirror(tmp_path, store / "run")
    copying._thread.start()
    monkeypatch.setattr(Mirror, "copy", interrupted)
    told = KeyboardInterrupt()
    with pytest.raises(Unfinished, match=rf"\(interrupted\); all that was measured lies in {tmp_path} on"):
        copying.__exit__(KeyboardInterrupt, told, None)
    assert not copying.is_whole


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_declaration_in_a_store_is_passed_over(store: Url, content: bytes):
    begin(store / "run")
    (store / "foreign" / "sweep.json").write(io.BytesIO(content))
    assert find_run(declared(store.text, run_name=None, name="resumed")).url == store / "run"
