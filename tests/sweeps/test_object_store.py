"""Sweeps whose results go to an object store: S3's protocol, by a server on loopback."""

import contextlib
import dataclasses
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from object_store import object_store
from rich.console import Console

from analysis import ResultsError, load
from analysis.remote import below
from sweeps import Confirm, Sweep, SweepError, choice, run
from sweeps.engine import mirror
from sweeps.engine.doctor.places import look_at_storage, marked, sees
from sweeps.engine.export import write_export
from sweeps.engine.folders import Home, new_home
from sweeps.engine.mirror import Mirror
from sweeps.search.checks import Unfinished
from trainables import load_exported
from trainables.checkpoint import read, remove, write
from trainables.storage import Url, delete_folder, place

pytest.importorskip("moto.server", reason="the S3 server of these tests is moto's")


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with object_store() as url:
        yield url


def test_files_of_a_store_are_written_whole_read_listed_and_deleted(store: str):
    folder = place(store) / "files"
    state = {"weights": torch.arange(5.0), "step": 3}
    write(folder / "t" / "state.pt", state)
    assert (read(folder / "t" / "state.pt") or {})["weights"].tolist() == [0, 1, 2, 3, 4]
    assert [each.shown for each in folder.folders()] == ["s3://bucket/sweeps/files/t"]
    assert (folder / "t" / "state.pt").changed_at() > 1.7e9
    remove(folder / "t" / "state.pt")
    assert read(folder / "t" / "state.pt") is None
    write(folder / "t" / "weights.pt", state)
    delete_folder(folder / "t")
    assert not (folder / "t" / "weights.pt").exists()
    assert "hidden" not in folder.shown
    assert below(store, "a/b") == (Url(store) / "a" / "b").text


def test_machines_tell_whether_they_see_the_same_store(store: str):
    with marked(store) as (mark, token):
        assert sees(mark, token)
        assert not sees(mark, "another")
        assert not sees(mark.replace("bucket", "other"), token)
    assert not sees(mark, token)
    found = look_at_storage(store)
    assert (found.error, found.folder) == (None, "s3://bucket/sweeps")


def test_a_journal_is_copied_in_segments_that_are_written_once(store: str, tmp_path: Path):
    url, folder = Url(store) / "segments", tmp_path / "segments"
    (folder / "journal").mkdir(parents=True)
    journal = folder / "journal" / "w-0.jsonl"
    with Mirror(folder, url) as copying:
        for text in ('{"a": 1}\n{"b"', ": 2}\n", "", '{"c": 3}\n'):
            with journal.open("a") as file:
                file.write(text)
            (folder / "sweep.json").write_text("{}")
            copying.copy()
        parts = [(url / "journal" / f"w-{number}.jsonl").read() for number in range(3)]
        assert parts == [b'{"a": 1}\n', b'{"b": 2}\n', b'{"c": 3}\n']
        assert not (url / "journal" / "w-3.jsonl").exists()
        assert (url / "lock").exists()
    assert not (url / "lock").exists()


def test_a_driver_that_lives_keeps_others_out_and_a_dead_one_does_not(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mirror, "STALE_S", 3.0)
    monkeypatch.setattr(mirror, "EVERY_S", 0.2)
    url, folder = Url(store) / "locked", tmp_path / "locked"
    folder.mkdir()
    (folder / "sweep.json").write_text("{}")
    with (
        Mirror(folder, url),
        pytest.raises(SweepError, match=r"must not be in use by another driver, got 's3://bucket"),
    ):
        Mirror(tmp_path, url)
    (url / "lock").write(io.BytesIO(b"of a driver that is dead"))
    Mirror(folder, url)


def test_a_store_that_fails_in_the_end_leaves_the_results_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with object_store() as url:
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "sweep.json").write_text("{}")
        copying = Mirror(folder, Url(url) / "run")
        copying.__enter__()
    (folder / "sweep.json").write_text('{"more": 1}')
    monkeypatch.setattr(mirror, "LAST_S", 0.0)
    with pytest.raises(Unfinished, match=r"s3://bucket/sweeps/run can no longer be written .* lies in .*run on"):
        copying.__exit__(None, None, None)


def test_a_folder_with_anything_in_it_is_no_new_run_s(store: str):
    theirs = Url(store) / "theirs" / "data.bin"
    theirs.write(io.BytesIO(b"precious"))
    sweep = Sweep(name="s", task="trainables.tasks.digits:build", space={}, storage=store, run_name="theirs")
    with pytest.raises(SweepError, match="run_name: must be new in s3://bucket/sweeps, got 'theirs'"):
        new_home(sweep)
    assert theirs.read() == b"precious"
    assert new_home(dataclasses.replace(sweep, run_name="ours")).url == Url(store) / "ours"


@pytest.mark.parametrize("ends", [None, KeyboardInterrupt])
def test_the_driver_s_copy_is_gone_when_the_store_has_all(store: str, tmp_path: Path, ends: type[BaseException] | None):
    home = Home(tmp_path / "copy" / f"run-{ends is None}", Url(store) / f"kept-{ends is None}")
    home.folder.mkdir(parents=True)
    with pytest.raises(ends) if ends else contextlib.nullcontext(), home.kept():
        (home.folder / "sweep.json").write_text("{}")
        if ends:
            raise ends
    assert not home.folder.exists()
    assert (home.url / "sweep.json").read() == b"{}"


def stored(store: str) -> Sweep:
    return Sweep(
        name="stored",
        task="trainables.tasks.digits:build",
        space={"learning_rate": choice([1e-3, 3e-3]), "width": 4},
        precisions=("fp32", "bf16-mixed"),
        num_trials=4,
        max_epochs=2,
        route="default",
        confirm=Confirm(num_seeds=1),
        checkpoint_every_s=0,
        cpus_per_trial=1.5,
        storage=store,
        run_name="run",
    )


@contextlib.contextmanager
def watched(url: str) -> Iterator[list[int]]:
    """How many reports a reader finds at a URL, look after look."""
    lengths: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            try:
                lengths.append(len(load(url).history))
            except ResultsError:
                lengths.append(0)
            time.sleep(0.5)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lengths
    finally:
        ended.set()
        watcher.join()


@pytest.mark.ray
def test_a_sweep_in_a_store_is_read_while_it_runs_goes_on_and_is_exported(
    store: str, ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mirror, "EVERY_S", 0.5)
    sweep, url, shown = stored(store), below(store, "run"), io.StringIO()
    with watched(url) as lengths:
        results = run(sweep, Console(file=shown, width=200))
    assert sorted(lengths) == lengths
    assert len({length for length in lengths if length}) > 2
    assert "results go to s3://bucket/sweeps/run" in shown.getvalue()
    assert "hidden" not in shown.getvalue() + json.dumps(results.sweeps)
    assert results.history.equals(load(url).history)
    assert not results.history.duplicated(["trial_id", "step"]).any()
    assert set(results.trials["status"]) <= {"completed", "pruned"}
    assert len(results.verdicts)
    assert results.examples(results.trials[results.trials["stage"] == "confirm"]["trial_id"].iloc[0]) is not None
    best = write_export(url, tmp_path / "exported")
    assert best.checkpoint.startswith("s3://")
    load_exported(tmp_path / "exported")
    with pytest.raises(SweepError, match="run_name: must be new in s3://bucket/sweeps, got 'run'"):
        run(sweep)
    again = run(dataclasses.replace(sweep, resume=True, confirm=Confirm(num_seeds=2)))
    assert len(again.trials) == len(results.trials) + 2
    known = again.history["trial_id"].isin(results.trials["trial_id"])
    assert again.history[known].reset_index(drop=True).equals(results.history)
