"""The journal's lines, and the mapping from reports to rows."""

import errno
import fcntl
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from analysis import load
from analysis.schema import HISTORY_COLUMNS, TRIAL_COLUMNS
from sweeps import Sweep, SweepError
from sweeps.engine import journal as journal_module
from sweeps.engine import rows
from sweeps.engine.folders import new_home
from sweeps.engine.journal import Journal, write_declaration
from sweeps.search.checks import Unfinished
from sweeps.search.plan import PlannedTrial
from trainables.report import TrialReport

PLANNED = PlannedTrial(0, "search-0000-fp32", "abcd0123", "abcd0123-5", {"learning_rate": 0.1, "width": 8}, "fp32", 5)


def report(**changes: object) -> dict:
    known = {
        "trial_id": PLANNED.trial_id,
        "epoch": 1.0,
        "step": 10,
        "applied_steps": 9,
        "skipped_steps": 1,
        "metrics": {"val_accuracy": 0.5, "val_loss": 1.5},
        "highest": {"val_accuracy": 0.75, "val_loss": 2.0},
        "lowest": {"val_accuracy": 0.25, "val_loss": 1.0},
        "train_loss": math.nan,
    }
    return TrialReport(**{**known, **changes}).to_dict()


def lines(folder: Path) -> list[dict]:
    (file,) = (folder / "journal").iterdir()
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_line_is_on_disk_as_soon_as_it_is_written_and_unknown_is_null(tmp_path: Path):
    with Journal(tmp_path) as journal:
        journal.write("report", {"trial_id": "a", "train_loss": math.nan, "val_loss": math.inf, "step": 3})
        assert lines(tmp_path) == [{"kind": "report", "trial_id": "a", "train_loss": None, "val_loss": None, "step": 3}]


def test_one_driver_at_a_time_and_a_file_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Journal(tmp_path) as first:
        first.write("trial", {"trial_id": "a"})
        with pytest.raises(SweepError, match="run_name: must not be in use by another driver"):
            Journal(tmp_path)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with Journal(tmp_path) as second:
        second.write("trial", {"trial_id": "b"})
    assert len(list((tmp_path / "journal").iterdir())) == 2


def test_sweeps_of_one_name_that_begin_at_once_have_runs_of_their_own(tmp_path: Path):
    sweep = Sweep(name="digits", task="trainables.tasks.digits:build", space={}, storage=str(tmp_path))
    assert new_home(sweep).folder != new_home(sweep).folder


def test_what_a_driver_made_it_can_take_back_and_nothing_else(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("kept")
    with Journal(tmp_path / "new" / "run") as journal, Journal(tmp_path) as here:
        for one in (journal, here):
            one.write("trial", {"trial_id": "a", "stage": "probe"})
            write_declaration(one.folder, {"name": "digits"})
        here.take_back()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "new"]
        (tmp_path / "new" / "other").mkdir()
        journal.take_back()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["other"]


def test_what_is_taken_back_is_not_open_any_more_and_says_nothing_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with Journal(tmp_path / "run") as journal:
        journal.write("trial", {"trial_id": "a", "stage": "probe"})
        file, unlink = journal._file, os.unlink

        def unlink_on_nfs(path: Any, **where: Any) -> None:
            unlink(path, **where)
            if not file.closed:  # NFS keeps an open file under another name until it is closed
                (tmp_path / "run" / "journal" / ".nfs0001").touch()

        monkeypatch.setattr(os, "unlink", unlink_on_nfs)
        journal.take_back()
    assert journal.is_taken_back
    assert not (tmp_path / "run").exists()


def test_what_another_driver_did_before_the_lock_came_free_is_not_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lock = fcntl.flock

    def after_another_run(*arguments: Any) -> None:
        write_declaration(tmp_path / "r", {"run_name": "r"})
        (tmp_path / "r" / "journal" / "a-0.jsonl").write_text("{}\n")
        (tmp_path / "r" / "checkpoints").mkdir()
        lock(*arguments)

    monkeypatch.setattr(fcntl, "flock", after_another_run)
    with Journal(tmp_path / "r") as journal:
        assert journal.is_used
        journal.take_back()
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"sweep.json", "journal", "checkpoints"}
    assert (tmp_path / "r" / "journal" / "a-0.jsonl").exists()


def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_keeps_it(tmp_path: Path):
    journal = Journal(tmp_path)
    (tmp_path / "journal" / f"{journal._writer}-0.jsonl").symlink_to("/dev/full")
    with pytest.raises(Unfinished, match=r"storage: .* can no longer be written \(No space left on device\)"), journal:
        journal.write("trial", {"trial_id": "a", "stage": "search"})


def test_a_folder_that_is_deleted_ends_the_run_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal_module, "SYNC_EVERY_S", 0.0)
    with Journal(tmp_path / "run") as journal:
        journal.write("trial", {"trial_id": "a", "stage": "search"})
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(Unfinished, match=r"storage: .*run can no longer be written \(it was deleted\)"):
            journal.write("trial", {"trial_id": "b", "stage": "search"})


def test_a_file_system_without_locks_is_refused_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def without(*arguments: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", without)
    with pytest.raises(SweepError, match=r"storage: must be a folder whose files can be locked \(Function not impl"):
        Journal(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_goes_on_counts_last_though_its_clock_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_declaration(tmp_path, {"schema": 1, "metric": "val_loss", "mode": "min", "precisions": [], "baselines": []})
    before = f"29990101T000000-{os.getpid()}"
    (tmp_path / "journal").mkdir()
    for number, status in enumerate(("running", "lost")):
        row = {"kind": "trial", "trial_id": "a", "stage": "search", "precision": "fp32", "status": status}
        (tmp_path / "journal" / f"{before}-{number}.jsonl").write_text(json.dumps(row) + "\n")
    for status in ("running", "completed"):
        with Journal(tmp_path) as journal:
            journal.write("trial", {"trial_id": "a", "status": status})
        assert load(tmp_path).trials["status"].tolist() == [status]


def test_a_folder_that_cannot_be_written_is_refused():
    with pytest.raises(SweepError, match="storage: must be a folder that can be written"):
        Journal(Path("/proc/ampsweep"))


@pytest.mark.parametrize(("mode", "best"), [("max", 0.75), ("min", 0.25)])
def test_rows_load_as_the_schema_says(tmp_path: Path, mode: str, best: float):
    with Journal(tmp_path / "run") as journal:
        journal.write("trial", rows.started(PLANNED, "search", 1, 0))
        journal.write("report", rows.reported("search", report()))
        journal.write("trial", rows.ended(PLANNED.trial_id, report(), "pruned", "why", "val_accuracy", mode))
    sweep = Sweep(name="s", task="m:f", space={"learning_rate": 0.1, "width": 8})
    write_declaration(tmp_path / "run", {**sweep.to_json(), "run_name": "run", "metric": "val_accuracy", "mode": mode})
    results = load(tmp_path / "run")
    (trial,) = results.trials.to_dict("records")
    assert trial["status"] == "pruned"
    assert trial["best_val_accuracy"] == best
    assert (trial["config/learning_rate"], trial["config/width"]) == (0.1, 8)
    assert (trial["steps"], trial["applied_steps"], trial["skipped_steps"], trial["epochs"]) == (10, 9, 1, 1.0)
    assert trial["started_at"] <= trial["ended_at"]
    (history,) = results.history.to_dict("records")
    assert math.isnan(history["train_loss"])
    assert history["val_accuracy"] == 0.5


def test_every_row_uses_names_of_the_schema():
    free = {"config", "val_accuracy", "best_val_accuracy", "unpaid_s"}  # the last is for a resumed run alone
    written = rows.started(PLANNED, "search", 1, 0) | rows.ended(
        "a", report(), "completed", None, "val_accuracy", "max"
    )
    assert set(written) - free <= set(TRIAL_COLUMNS)
    assert set(rows.reported("search", report())) - free <= set(HISTORY_COLUMNS)
    result = {"precision": "fp32", "status": "completed", "step_ms": 1.0, "metrics": ("val_loss",)}
    assert set(rows.probed(result, 1, 0)) <= set(TRIAL_COLUMNS)


def test_a_declaration_is_replaced_whole(tmp_path: Path):
    write_declaration(tmp_path, {"schema": 1})
    write_declaration(tmp_path, {"schema": 1, "metric": "val_loss"})
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]
    assert json.loads((tmp_path / "sweep.json").read_text())["metric"] == "val_loss"
