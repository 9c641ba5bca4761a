"""Trackers beside a trial: what they get of it."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trackers import events_of, family, report, reports_of, steps_of, tracking, within
from wandb_files import read_runs

from trainables import tracked as client
from trainables.spec import Budget, Checkpoints, TrialSpec
from trainables.tracked import Outbox, Tracked, tracked_while
from trainables.tracking import LONGEST_ID, report_row, run_id, tracked_run
from trainables.trial import run_trial


def test_run_ids_are_plain_short_and_of_one_run_each():
    assert run_id("first", "search-0001-fp32") == "first-search-0001-fp32"
    names = [("a b", "t"), ("a/b", "t"), ("a", "b-t"), ("x" * 80, "t"), ("x" * 80, "u")]
    ids = [run_id(*each) for each in names]
    assert len(set(ids)) == len(ids)
    for each in ids:
        assert len(each) <= LONGEST_ID
        assert set(each) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")


def test_hyperparameters_keep_their_names_unless_a_run_has_one_of_that_name(tmp_path: Path):
    run = tracked_run(tracking(tmp_path), "t", {"stage": 1, "learning_rate": 0.1}, precision="fp32")
    assert run.config == {
        "learning_rate": 0.1,
        "config/stage": 1,
        "stage": "search",
        "sweep": "sweep",
        "precision": "fp32",
    }


def test_a_trial_without_trackers_starts_no_process(make_spec: Callable[..., TrialSpec], outbox: Any):
    with tracked_while(make_spec()) as tracked:
        assert tracked.saw(report(1)) is None
    assert client._OUTBOX._courier is None


def test_environments_are_not_shown(tmp_path: Path):
    key = "0" * 40
    assert key not in repr(tracking(tmp_path, WANDB_API_KEY=key))


def test_an_offline_run_holds_all_that_a_trial_reported(
    make_spec: Callable[..., TrialSpec], outbox: Any, tmp_path: Path
):
    spec = make_spec(precision="bf16-mixed", tracking=tracking(tmp_path), budget=Budget(max_epochs=3))
    assert TrialSpec.from_dict(spec.to_dict()) == spec
    rows = []
    with tracked_while(spec) as tracked:
        for each in run_trial(spec):
            assert tracked.saw(each) is None
            rows.append(report_row(each))
    (run,) = within(30, lambda: [run for run in read_runs(tmp_path) if run.exit_code is not None])
    assert (run.run_id, run.name, run.project, run.group, run.stage) == ("sweep-t", "t", "project", "sweep", "search")
    assert run.config["precision"] == "bf16-mixed"
    assert (run.config["batch_size"], run.config["seed"]) == (16, 5)
    assert len(rows) == 3
    assert [{name: row[name] for name in rows[0]} for row in run.history] == rows
    assert {"val_loss", "val_accuracy", "learning_rate", "samples_per_s", "step_ms", "peak_memory_bytes"} <= set(
        rows[0]
    )
    assert [row["amp/effective_precision"] for row in run.history] == ["bf16-mixed"] * 3
    assert [row["amp/skipped_steps"] for row in run.history] == [0] * 3
    assert (run.summary["status"], run.exit_code) == ("completed", 0)


def test_a_trial_that_fails_ends_its_run_with_the_reason(
    make_spec: Callable[..., TrialSpec], outbox: Any, tmp_path: Path
):
    spec = make_spec("raises_in_build", tracking=tracking(tmp_path))
    with tracked_while(spec) as tracked:
        for each in run_trial(spec):
            tracked.saw(each)
    (run,) = within(30, lambda: [run for run in read_runs(tmp_path) if run.exit_code is not None])
    assert (run.summary["status"], run.history, run.exit_code) == ("errored", [], 1)
    assert "planted in build" in run.summary["status_reason"]


def test_numbers_that_are_not_finite_come_through(outbox: Any, tmp_path: Path):
    tracked = Tracked(tracking(tmp_path), "t", {})
    last = dataclasses.replace(report(1, "diverged"), train_loss=math.nan, grad_norm=math.inf)
    tracked.saw(last)
    tracked.wait()
    assert tracked.news() is None
    (run,) = within(30, lambda: [run for run in read_runs(tmp_path) if run.exit_code is not None])
    (row,) = run.history
    assert (str(row["train_loss"]).lower(), str(row["grad_norm"]).lower()) == ("nan", "inf")


def test_a_process_tracks_one_trial_after_the_other(outbox: Any, tmp_path: Path):
    where, pids = tracking(tmp_path), set()
    for name in ("a", "b", "c"):
        tracked = Tracked(where, name, {})
        assert reports_of(tracked, range(1, 6)) == []
        tracked.saw(report(6, "completed"))
        pids.add(family(client._OUTBOX)[0].pid)
    tracked.wait()
    runs = within(30, lambda: all(r.exit_code == 0 for r in read_runs(tmp_path)) and read_runs(tmp_path))
    assert {run.name: steps_of([run]) for run in runs} == {name: [1, 2, 3, 4, 5, 6] for name in "abc"}
    assert len(pids) == 1


def test_a_trial_that_goes_on_in_another_process_goes_on_with_its_run(
    make_spec: Callable[..., TrialSpec], outbox: Callable[[], Outbox], tmp_path: Path
):
    kept = Checkpoints(str(tmp_path / "checkpoints"), 0, "val_loss", "min")
    spec = make_spec(tracking=tracking(tmp_path), checkpoints=kept, budget=Budget(max_epochs=4))
    first = Tracked(spec.tracking, "t", spec.config)
    reports = run_trial(spec)
    for _ in range(3):
        first.saw(next(reports))  # its state on disk is of before the third, which comes again
    reports.close()
    first.end("running")
    first.wait()
    within(30, lambda: steps_of(read_runs(tmp_path)) == [4, 8, 12])
    outbox()
    second = Tracked(spec.tracking, "t", spec.config)
    again = [each.step for each in run_trial(spec) if second.saw(each) is None]
    second.wait()
    assert again in ([4, 8, 12, 16], [4, 8, 12, 12, 16])
    within(30, lambda: steps_of(read_runs(tmp_path)) == [4, 8, 12, 16])
    assert [run.run_id for run in read_runs(tmp_path)] == ["sweep-t"] * 2


def test_a_trial_that_goes_on_with_other_hyperparameters_reports_anew(outbox: Callable[[], Outbox], tmp_path: Path):
    for width in (1, 2):
        tracked = Tracked(tracking(tmp_path), "t", {"width": width})
        reports_of(tracked, range(1, 4))
        tracked.end("running")
        tracked.wait()
    within(30, lambda: steps_of(read_runs(tmp_path)) == [1, 2, 3, 1, 2, 3])


def test_tensorboard_gets_every_report_as_points_of_curves(outbox: Any, tmp_path: Path):
    tracked = Tracked(tracking(tmp_path, ("tensorboard",)), "t", {"width": 8}, precision="fp32")
    assert reports_of(tracked, range(1, 21)) == []
    tracked.table("verdicts", ["precision", "speedup"], [["fp32", None], ["bf16-mixed", 1.5]])
    tracked.saw(report(21, "completed"))
    tracked.wait()
    assert tracked.news() is None
    within(30, lambda: not client._OUTBOX._courier.is_open(1))
    events = events_of(tmp_path / "tensorboard" / "t")
    values = [(event.step, value) for event in events for value in event.summary.value]
    losses = [(step, value.simple_value) for step, value in values if value.tag == "val_loss"]
    assert losses == [(step, pytest.approx(2 / step)) for step in range(1, 22)]
    kept = [value for _, value in values if value.tensor.string_val]
    texts = {value.tag.removesuffix("/text_summary"): value.tensor.string_val[0].decode() for value in kept}
    assert "| width | 8 |" in texts["config"]
    assert "| bf16-mixed | 1.5 |" in texts["verdicts"]
    assert "| status | completed |" in texts["end"]


def test_mlflow_gets_every_report_as_points_of_metrics(outbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    from mlflow.tracking import MlflowClient

    for steps, status in ((range(1, 6), "running"), (range(1, 9), "completed")):
        outbox()
        tracked = Tracked(tracking(tmp_path, ("mlflow",)), "t", {"width": 8}, precision="fp32")
        assert reports_of(tracked, steps) == []
        tracked.table("verdicts", ["precision", "speedup"], [["fp32", None]])
        tracked.end(status)
        tracked.wait()
        courier = client._OUTBOX._courier
        within(60, lambda: not courier.is_open(1))  # noqa: B023
        assert courier.warnings() == []
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = MlflowClient((tmp_path / "mlruns").as_uri())
    experiment = mlflow.get_experiment_by_name("project")
    (run,) = mlflow.search_runs([experiment.experiment_id])
    losses = mlflow.get_metric_history(run.info.run_id, "val_loss")
    assert [(metric.step, metric.value) for metric in losses] == [(step, 2 / step) for step in range(1, 9)]
    assert (run.data.params["width"], run.data.tags["status"], run.info.status) == ("8", "completed", "FINISHED")


def test_mlflow_keeps_to_the_user_s_experiment_and_knows_a_table(
    outbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    from mlflow.tracking import MlflowClient

    tracked = Tracked(tracking(tmp_path, ("mlflow",), MLFLOW_EXPERIMENT_NAME="mine"), "summary", {})
    tracked.table("verdicts", ["precision", "speedup"], [["fp32", None]])
    tracked.end("completed")
    assert tracked.wait(60)
    assert tracked.news() is None
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = MlflowClient((tmp_path / "mlruns").as_uri())
    assert mlflow.get_experiment_by_name("project") is None
    (run,) = mlflow.search_runs([mlflow.get_experiment_by_name("mine").experiment_id])
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "verdicts.json", "type": "table"}]
