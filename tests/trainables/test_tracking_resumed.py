"""Tracked runs that go on: in another process, with other resources, on a machine that does not see the folder."""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trackers import events_of, report, reports_of, steps_of, tracking, within
from wandb_files import read_runs

from trainables import tracked as client
from trainables.tracked import Outbox, Tracked
from trainables.tracking import TrackedRun, Tracking, end_figures, tracked_run

TENSORBOARD = ("tensorboard",)


def part(where: Tracking, steps: range, status: str = "running", **own: Any) -> None:
    """A run that begins or goes on, and ends for now."""
    tracked = Tracked(where, "t", {"width": 8}, **own)
    assert reports_of(tracked, steps) == []
    tracked.end(status)
    tracked.wait(30)
    assert tracked.news() is None


def curve(folder: Path) -> list[int]:
    """Steps of a curve that TensorBoard's files hold."""
    events = events_of(folder / "tensorboard" / "t")
    return sorted(event.step for event in events for value in event.summary.value if value.tag == "val_loss")


def test_runs_of_sweeps_of_one_name_are_not_the_same(tmp_path: Path):
    first, second = (dataclasses.replace(tracking(tmp_path), token=token) for token in ("0a1b2c", "d3e4f5"))
    assert tracked_run(first, "t", {}).run_id == "sweep-0a1b2c-t"
    assert tracked_run(second, "t", {}).run_id == "sweep-d3e4f5-t"
    assert tracked_run(second, "t", {}).group == "sweep"


def test_tensorboard_keeps_what_it_had_where_a_run_goes_on_within_the_second(outbox: Any, tmp_path: Path):
    for steps in (range(1, 4), range(4, 7), range(7, 10)):
        part(tracking(tmp_path, TENSORBOARD), steps)
    assert curve(tmp_path) == list(range(1, 10))


def test_a_trial_that_goes_on_with_other_resources_sends_nothing_twice(outbox: Any, tmp_path: Path):
    part(tracking(tmp_path, TENSORBOARD), range(1, 4), num_cpus=1.0, num_gpus=0.0, num_workers=1)
    part(tracking(tmp_path, TENSORBOARD), range(1, 6), num_cpus=2.0, num_gpus=0.0, num_workers=2)
    assert curve(tmp_path) == [1, 2, 3, 4, 5]


def test_files_of_a_run_are_in_the_store_at_its_end_and_it_goes_on_elsewhere(
    outbox: Callable[[], Outbox], tmp_path: Path
):
    store = tmp_path / "store"
    for machine, steps in (("one", range(1, 4)), ("another", range(2, 6))):
        there = tracking(tmp_path / machine, ("tensorboard", "wandb"))
        part(dataclasses.replace(there, store=f"file://{store}"), steps)
        outbox()
    assert curve(store) == [1, 2, 3, 4, 5]
    assert [curve(tmp_path / machine) for machine in ("one", "another")] == [[1, 2, 3], [4, 5]]
    assert steps_of(read_runs(store)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("status", ["completed", "errored"])
def test_a_file_of_w_and_b_is_copied_once_it_is_whole(outbox: Any, tmp_path: Path, status: str):
    """Its own process writes the end of a run a little after it has said that the run is finished."""
    from trainables.adapters.track_wandb import RunTracker, has_ended

    part(tracking(tmp_path, WANDB_MODE="offline"), range(1, 3), status)
    within(30, lambda: [run.exit_code for run in read_runs(tmp_path)] == [int(status == "errored")])
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert has_ended(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert not has_ended(file)
    late = threading.Timer(0.3, lambda: file.write_bytes(whole))
    late.start()
    tracker = RunTracker()
    tracker._run = SimpleNamespace(offline=True, settings=SimpleNamespace(sync_file=str(file)))
    tracker._of = TrackedRun(file.stem.removeprefix("run-"), "t", "p", "g", "search", str(tmp_path), {})
    assert file in tracker.files()
    assert file.read_bytes() == whole
    late.join()


def test_a_store_that_cannot_be_written_is_said_once_and_the_files_stay(outbox: Any, tmp_path: Path):
    (tmp_path / "file").write_text("")
    where = dataclasses.replace(tracking(tmp_path, TENSORBOARD), store=f"file://{tmp_path}/file/store?with=keys")
    tracked = Tracked(where, "t", {})
    tracked.saw(report(1, "completed"))
    assert tracked.wait(30)
    said = tracked.news()
    assert said is not None
    assert said.startswith(f"tensorboard: files stay in {tmp_path} on ")
    assert "keys" not in said
    assert curve(tmp_path) == [1]


def test_paths_that_trackers_are_told_start_from_the_driver_s_directory(outbox: Any, tmp_path: Path):
    where = tracking(tmp_path / "run", WANDB_MODE="offline", WANDB_DIR="own")
    part(dataclasses.replace(where, directory=str(tmp_path)), range(1, 3))
    within(30, lambda: steps_of(read_runs(tmp_path / "own")) == [1, 2])


def test_a_trial_that_has_gone_on_keeps_no_reason_of_a_former_end():
    assert end_figures(None, "lost", "its process went away") == {
        "status": "lost",
        "status_reason": "its process went away",
    }
    assert end_figures(None, "completed", None) == {"status": "completed", "status_reason": ""}


def test_a_mode_that_w_and_b_does_not_know_is_named(outbox: Any, tmp_path: Path):
    tracked = Tracked(tracking(tmp_path, WANDB_MODE="onlin"), "t", {})
    tracked.saw(report(1, "completed"))
    assert tracked.wait(30)
    assert "'onlin'" in (tracked.news() or "")


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("val_loss", "val_loss"),
        ("amp/loss_scale", "amp/loss_scale"),
        ("val_recall@5", "val_recall_5"),
        ("learning_rate[fp32]", "learning_rate_fp32_"),
        ("../up", "_.._up"),
        ("a//b", "_a__b"),
        ("/a", "__a"),
        (".", "_."),
    ],
)
def test_mlflow_takes_every_name(name: str, taken: str):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    from trainables.adapters import track_mlflow

    assert track_mlflow.taken(name) == taken
    _validate_metric_name(taken)
    _validate_param_name(taken)


def test_processes_that_begin_at_once_share_a_new_database(tmp_path: Path):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    pytest.importorskip("sqlalchemy", reason="MLflow needs it for a database")
    where = tracking(tmp_path, ("mlflow",), MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/own.db")
    couriers = []
    for name in "abc":
        courier, number = Outbox().begin(where, tracked_run(where, name, {}))
        courier.send("finish", number, status="completed", figures={"status": "completed"})
        couriers.append(courier)
    assert all(courier.wait(1, 120) for courier in couriers)
    assert [courier.warnings() for courier in couriers] == [[], [], []]


def test_a_task_s_own_names_do_not_end_mlflow_s_run(outbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    from mlflow.tracking import MlflowClient

    tracked = Tracked(tracking(tmp_path, ("mlflow",)), "t", {"top@k": 5})
    tracked.saw(dataclasses.replace(report(1, "completed"), metrics={"val_recall@5": 0.5}, highest={"val_recall@5": 1}))
    assert tracked.wait(60)
    assert tracked.news() is None
    assert client._OUTBOX._courier.warnings() == []
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = MlflowClient((tmp_path / "mlruns").as_uri())
    (run,) = mlflow.search_runs([mlflow.get_experiment_by_name("project").experiment_id])
    assert (run.data.params["top_k"], run.data.metrics["val_recall_5"], run.info.status) == ("5", 0.5, "FINISHED")
