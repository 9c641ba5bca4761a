"""What a run that goes on takes from its journal, and which sweep may go on with it; without Ray."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from drivers import declared

from sweeps import Confirm, SweepError, choice
from sweeps.engine import rows
from sweeps.engine.folders import Home
from sweeps.engine.journal import Journal, write_declaration
from sweeps.engine.resume import LAST, read_past
from sweeps.engine.unfinished import find_run
from sweeps.search.plan import plan_search
from trainables.loading import find_task


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run's folder as a finished probe leaves it, without having run."""
    sweep = declared(tmp_path)
    with Journal(tmp_path / "first") as journal:
        for precision, status in (("fp32", "completed"), ("bf16-mixed", "excluded")):
            probed = {"trial_id": f"probe-{precision}", "stage": "probe", "precision": precision, "device": "X"}
            journal.write("trial", probed | {"status": status})
        for trial_id, status in (("search-0000-fp32", "pruned"), ("search-0001-fp32", "running")):
            journal.write("trial", {"trial_id": trial_id, "stage": "search", "precision": "fp32", "status": status})
        for trial_id, step, value in (
            ("search-0000-fp32", 22, 0.5),
            ("search-0001-fp32", 22, None),
            ("search-0001-fp32", 44, 0.75),
            ("search-0001-fp32", 44, 0.75),
        ):
            journal.write("report", {"trial_id": trial_id, "stage": "search", "step": step, "val_accuracy": value})
        journal.write("timing", {"block_id": "b", "device": "X", "status": "completed", "arms": []})
        journal.write("timing", {"block_id": "c", "status": "errored", "arms": []})
    resolved = {"run_name": "first", "metric": "val_accuracy", "mode": "max", "probed": True}
    write_declaration(tmp_path / "first", {**sweep.to_json(), **resolved})
    return tmp_path


def test_the_past_is_what_the_journal_says(finished: Path):
    sweep = declared(finished)
    past = read_past(finished / "first", sweep, find_task(sweep.task))
    assert past.usable == {"X": {"fp32": "default"}}
    assert past.ended == {"probe-fp32", "probe-bf16-mixed", "search-0000-fp32"}
    assert past.timed == {("b", "X")}
    statuses = {trial_id: row["status"] for trial_id, row in past.searched.items()}
    assert statuses == {"search-0000-fp32": "pruned", "search-0001-fp32": "running"}
    numbers = [(trial_id, t) for _, trial_id, t, _ in past.reports]
    assert numbers == [("search-0000-fp32", 1), ("search-0001-fp32", 1), ("search-0001-fp32", 2)]
    assert [value == value for *_, value in past.reports] == [True, False, True]


@pytest.mark.parametrize(
    "line",
    [
        {"kind": "trial", "trial_id": "search-0000-fp32-x"},
        {"kind": "trial", "trial_id": "search-0000-fp32-x", "stage": "search"},
        {"kind": "report", "trial_id": "search-0001-fp32", "stage": "search"},
        {"kind": "report", "trial_id": "search-0009-fp32", "stage": "search", "step": 1},
        {"kind": "timing", "block_id": "x"},
        {  # of a precision that was not probed, or was left out
            "kind": "trial",
            "trial_id": "search-0000-bf16-mixed",
            "stage": "search",
            "precision": "bf16-mixed",
            "status": "completed",
        },
    ],
)
def test_a_journal_with_a_line_that_lacks_something_is_refused_in_one_line(finished: Path, line: dict):
    with (finished / "first" / "journal" / "z-0.jsonl").open("w") as file:
        file.write(json.dumps(line) + "\n")
    sweep = declared(finished)
    with pytest.raises(SweepError, match=r"^resume: needs a whole journal \(.*; restore the journal") as refused:
        read_past(finished / "first", sweep, find_task(sweep.task))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_trials": 9}, "num_trials"),
        ({"max_epochs": 5}, "max_epochs"),
        ({"space": {"width": choice([4, 8])}}, "space"),
        ({"precisions": ("fp32", "bf16-true")}, "precisions"),
        ({"seed": 1}, "seed"),
        ({"route": "auto"}, "route"),
        ({"compile": True}, "compile"),
        ({"stop_at": {"val_accuracy": 0.9}}, "stop_at"),
        ({"patience": 3}, "patience"),
        ({"patience": 2, "min_delta": 0.1}, "patience"),
        ({"metric": "val_loss"}, "metric"),
        ({"mode": "min"}, "mode"),
        ({"confirm": Confirm(num_seeds=2, margin=0.5)}, "confirm.margin"),
        ({"confirm": Confirm(num_seeds=2, target_speedup=1.1)}, "confirm.target_speedup"),
    ],
)
def test_another_sweep_does_not_go_on(finished: Path, changes: dict, field: str):
    sweep = declared(finished, **changes)
    with pytest.raises(SweepError, match=f"^{field}: must be as in the run that goes on") as refused:
        read_past(finished / "first", sweep, find_task(sweep.task))
    assert "\n" not in str(refused.value)


def test_a_trial_that_completed_counts_at_every_rung(finished: Path):
    with (finished / "first" / "journal" / "z-0.jsonl").open("w") as file:
        row = {"kind": "trial", "trial_id": "search-0001-fp32", "status": "completed", "steps": 44}
        file.write(json.dumps(row) + "\n")
    sweep = declared(finished)
    past = read_past(finished / "first", sweep, find_task(sweep.task))
    assert [t for _, trial_id, t, _ in past.reports if trial_id == "search-0001-fp32"] == [1, LAST]


def test_a_run_of_an_earlier_version_says_nothing_of_what_is_new_and_goes_on(finished: Path, tmp_path: Path):
    folder = Path(shutil.copytree(finished / "first", tmp_path / "earlier"))
    recorded = json.loads((folder / "sweep.json").read_text())
    for name in ("compile", "stop_at", "patience", "min_delta"):
        del recorded[name]
    (folder / "sweep.json").write_text(json.dumps(recorded))
    sweep = declared(finished, confirm=Confirm(num_seeds=8))
    assert read_past(folder, sweep, find_task(sweep.task)).ended


def test_points_may_be_added_and_not_be_others(tmp_path: Path):
    file = tmp_path / "points.jsonl"
    first, second, third = (json.dumps({"width": width}) + "\n" for width in (4, 8, 16))
    file.write_text(first + second)
    sweep = declared(tmp_path, points=str(file))
    with Journal(tmp_path / "first") as journal:
        for trial in plan_search(sweep, ["fp32"]):
            journal.write("trial", rows.started(trial, "search", 1, 0) | {"status": "completed"})
    resolved = {"run_name": "first", "metric": "val_accuracy", "mode": "max", "probed": False}
    write_declaration(tmp_path / "first", {**sweep.to_json(), **resolved})
    for changed in (third + first + second, second + first, first):
        file.write_text(changed)
        with pytest.raises(SweepError, match="points: must begin with the lines of the run that goes on"):
            read_past(tmp_path / "first", sweep, find_task(sweep.task))
    file.write_text(first + second + third)
    read_past(tmp_path / "first", sweep, find_task(sweep.task))


@pytest.mark.parametrize(
    "changes", [{"confirm": Confirm(num_seeds=8)}, {"cpus_per_trial": 1}, {"stage": "search"}, {"metric": None}]
)
def test_what_may_change_goes_on(finished: Path, changes: dict):
    sweep = declared(finished, **changes)
    assert read_past(finished / "first", sweep, find_task(sweep.task)).ended


def test_the_newest_unfinished_run_of_the_sweep_is_found(finished: Path):
    assert find_run(declared(finished, run_name=None)) == Home(finished / "first")
    with pytest.raises(SweepError, match="resume: needs an unfinished run of 'other'"):
        find_run(declared(finished, run_name=None, name="other"))
    with pytest.raises(SweepError, match="run_name: must be a run"):
        find_run(declared(finished, run_name="second"))
    file = finished / "first" / "sweep.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"ended_at": "2026-11-23T00:00:00+00:00"}))
    with pytest.raises(SweepError, match="resume: needs an unfinished run"):
        find_run(declared(finished, run_name=None))


def test_a_run_of_another_user_s_is_passed_over(finished: Path, monkeypatch: pytest.MonkeyPatch):
    for number in range(20):
        (finished / f"theirs-{number}").mkdir()
    look = os.stat

    def refused(path: Any, **how: Any) -> os.stat_result:
        if "theirs" in str(Path(path).parent):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return look(path, **how)

    monkeypatch.setattr(os, "stat", refused)
    assert find_run(declared(finished, run_name=None)) == Home(finished / "first")
    with pytest.raises(SweepError, match="run_name: must be a run"):
        find_run(declared(finished, run_name="theirs-0"))


def test_a_finished_run_goes_on_only_where_more_is_asked_of_it(finished: Path):
    file = finished / "first" / "sweep.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"ended_at": "2026-11-23T00:00:00+00:00"}))
    sweep = declared(finished)
    with pytest.raises(SweepError, match="resume: needs a run that has not finished, as first has"):
        read_past(finished / "first", sweep, find_task(sweep.task))
    more = declared(finished, confirm=Confirm(num_seeds=8))
    assert read_past(finished / "first", more, find_task(more.task)).ended
