"""Whole sweeps in which something goes wrong, on a real Ray."""

import dataclasses
import errno
import json
import os
import time
from pathlib import Path

import pytest

from analysis import load
from sweeps import Confirm, Sweep, choice, run
from sweeps.engine.journal import Journal
from sweeps.search.checks import Unfinished

pytestmark = pytest.mark.ray
HERE = Path(__file__).parent


def points(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_faults_are_rows_and_the_others_go_on(ray_address: str, tmp_path: Path):
    faults = ["none", "diverge", "raise", "memory", "build", "kill", "none", "kill once"]
    marker = tmp_path / "killed"
    sweep = Sweep(
        name="faults",
        task=f"{HERE / 'tasks_that_fail.py'}:build",
        space={},
        precisions=("fp32",),
        points=points(
            tmp_path / "points.jsonl",
            [
                {"learning_rate": 0.01, "fault": f, "n": i, "seed": 3, "marker": str(marker)}
                for i, f in enumerate(faults)
            ],
        ),
        checkpoint_every_s=0,
        max_epochs=2,
        scheduler="fifo",
        stage="search",
        storage=str(tmp_path),
        run_name="faults",
    )
    results = run(sweep)
    ends = results.trials[results.trials["stage"] == "search"].sort_values("config/n")
    expected = ["completed", "diverged", "errored", "out_of_memory", "errored", "lost", "completed", "completed"]
    assert list(ends["status"]) == expected
    reasons = list(ends["status_reason"])
    assert "loss was not finite, first at step" in reasons[1]
    assert "RuntimeError: planted in the fourth call (tasks_that_fail.py:" in reasons[2]
    assert "planted in build" in reasons[4]
    assert all(isinstance(reason, str) and "\n" not in reason for reason in reasons[1:6])
    assert marker.exists()
    whole, killed_once = ends.iloc[0], ends.iloc[7]
    assert (killed_once["epochs"], killed_once["val_loss"]) == (2.0, whole["val_loss"])
    assert list(results.history.query("trial_id == @killed_once.trial_id")["epoch"]) == [1.0, 2.0]


def test_runs_that_die_in_confirm_keep_what_they_reported(ray_address: str, tmp_path: Path):
    sweep = Sweep(
        name="dies",
        task=f"{HERE / 'tasks_that_fail.py'}:build",
        space={"fault": choice(["kill in confirm", "kill once"]), "marker": str(tmp_path / "killed in confirm")},
        precisions=("fp32", "bf16-mixed"),
        searcher="grid",
        num_trials=4,
        max_epochs=2,
        scheduler="fifo",
        cpus_per_trial=1.5,
        confirm=Confirm(num_seeds=1, top_k=2),
        storage=str(tmp_path),
        run_name="dies",
    )
    results = run(sweep)
    confirmed = results.trials[results.trials["stage"] == "confirm"]
    lost = confirmed[confirmed["config/fault"] == "kill in confirm"]
    assert list(lost["status"]) == ["lost", "lost"]
    assert list(lost["epochs"]) == [1.0, 1.0]
    assert lost["val_accuracy"].notna().all()
    assert (tmp_path / "killed in confirm").exists()
    once = confirmed[confirmed["config/fault"] == "kill once"]
    assert list(zip(once["status"], once["epochs"], strict=True)) == [("completed", 2.0)] * 2
    assert "errored" in set(results.timings["status"])
    assert set(results.verdicts["verdict"]) <= {"INVALID"}


@pytest.mark.parametrize("stage", ["search", "confirm"])
def test_an_interrupted_run_leaves_nothing_running_on_a_ray_that_outlives_it(
    ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
):
    import ray

    from sweeps.engine.recorder import Recorder

    record = Recorder.record

    def interrupt(self: Recorder, kind: str, row: dict) -> None:
        record(self, kind, row)
        if kind == "report" and row["stage"] == stage:
            raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "record", interrupt)
    sweep = Sweep(
        name="interrupted",
        task="trainables.tasks.digits:build",
        space={"width": 64},
        precisions=("fp32", "bf16-mixed"),
        num_trials=4 if stage == "search" else 2,
        max_epochs=30 if stage == "search" else 1,
        confirm=Confirm(num_seeds=2),
        storage=str(tmp_path),
        run_name="interrupted",
    )
    with pytest.raises(KeyboardInterrupt):
        run(sweep)
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)
    ended = load(tmp_path / "interrupted").trials.query("status == 'completed' and stage == @stage")
    assert len(ended) < 4


def test_a_disk_that_is_full_for_a_while_in_the_search_ends_the_run_which_then_goes_on(
    ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    append, at = Journal._append, ['"kind": "report"', '"status": "completed"']

    def append_where_there_is_room(self: Journal, line: str) -> None:
        if at and at[0] in line and '"search-' in line:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, line)

    monkeypatch.setattr(Journal, "_append", append_where_there_is_room)

    sweep = Sweep(
        name="full",
        task="trainables.tasks.digits:build",
        space={"width": 4},
        precisions=("fp32",),
        num_trials=1,
        max_epochs=2,
        stage="search",
        cpus_per_trial=1.5,
        storage=str(tmp_path),
        run_name="full",
    )
    while at:
        with pytest.raises(Unfinished, match=r"^storage: .*full can no longer be written \(No space left on device\)"):
            run(sweep)
        assert set(load(tmp_path / "full").trials.query("stage == 'search'")["status"]) == {"running"}
        at.pop(0)
        sweep = dataclasses.replace(sweep, resume=True)
    results = run(sweep)
    assert list(results.trials.query("stage == 'search'")["status"]) == ["completed"]
    assert list(results.history["epoch"]) == [1.0, 2.0]


def test_relative_paths_mean_what_they_mean_to_the_user(
    ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "marker.txt").write_text("0.01")
    (tmp_path / "relative.py").write_text(RELATIVE)
    sweep = Sweep(
        name="relative",
        task="relative.py:build",
        space={},
        precisions=("fp32", "bf16-mixed"),
        num_trials=2,
        max_epochs=1,
        cpus_per_trial=1.5,
        stage="search",
        run_name="relative",
    )
    assert set(run(sweep).trials["status"]) == {"completed"}


RELATIVE = """
import torch
from torch.utils.data import TensorDataset
from trainables import Task

def build(config):
    scale = float(open("marker.txt").read())
    data = TensorDataset(scale * torch.ones(64, 4), torch.zeros(64, dtype=torch.int64))
    return Task(torch.nn.Linear(4, 2), data, data)
"""
