"""Sweeps with trackers: a run for every trial, with all that the results' history has."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from wandb_files import Run, read_runs

from analysis import Results
from sweeps import Confirm, Sweep, SweepError, choice, loguniform, run
from sweeps.engine.tracking import as_table, check_installed, token_of, tracking_of
from trainables.tracking import LIBRARIES

HERE = Path(__file__).parent
AMPSWEEP = str(Path(sys.executable).parent / "ampsweep")
SAME = (
    *("epoch", "step", "train_s", "train_loss", "val_loss", "val_accuracy", "learning_rate", "grad_norm"),
    *("samples_per_s", "steps_per_s", "applied_steps_per_s", "data_wait_share"),
)
"""Columns of the results' history that trackers have under the same name."""


def declared(**fields: Any) -> Sweep:
    return Sweep("s", "trainables.tasks.digits:build", {}, **fields)


def test_a_project_says_that_w_and_b_is_wanted() -> None:
    assert declared().track == ()
    assert declared(wandb_project="p").track == ("wandb",)
    assert declared(wandb_project="p", track=["tensorboard", "wandb"]).track == ("wandb", "tensorboard")
    assert declared(track=["mlflow"]).track == ("mlflow",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"track": "wandb"}, "track: must be a list of trackers, got 'wandb'; for example"),
        ({"track": ("wnadb",)}, "track: must be a known name, got 'wnadb'; did you mean 'wandb'?"),
        ({"track": ("wandb", "wandb")}, "track: must name each tracker once, got 'wandb,wandb'; remove"),
        ({"wandb_project": ""}, "wandb_project: must be a string that is not empty, got ''; name a project"),
        ({"wandb_project": "a/b"}, "wandb_project: must not have / in it, got 'a/b'; name it"),
        ({"wandb_project": "p" * 129}, "wandb_project: must have at most 128 letters, got 'ppp"),
    ],
)
def test_what_cannot_be_tracked_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SweepError) as caught:
        declared(**fields)
    assert str(caught.value).startswith(message)


def test_trials_are_told_the_drivers_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_ENTITY", "me")
    monkeypatch.setenv("UNRELATED", "1")
    assert tracking_of(declared(), tmp_path, "search") is None
    told = tracking_of(declared(wandb_project="p"), tmp_path, "search")
    assert told is not None
    assert (told.project, told.group, told.stage, told.trackers) == ("p", tmp_path.name, "search", ("wandb",))
    assert told.environment["WANDB_ENTITY"] == "me"
    assert "UNRELATED" not in told.environment
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    of_sweep = tracking_of(declared(track=("wandb",)), tmp_path, "search")
    assert of_sweep is not None
    assert (of_sweep.project, of_sweep.directory, of_sweep.store) == ("s", str(Path.cwd()), None)


def test_a_sweep_in_a_store_tells_trackers_of_it_and_shows_no_keys(tmp_path: Path) -> None:
    sweep = declared(track=("wandb",), storage="s3://key:hidden@bucket/sweeps?scheme=http")
    told = tracking_of(sweep, tmp_path / "first", "search")
    assert told is not None
    assert told.store == "s3://key:hidden@bucket/sweeps/first?scheme=http"
    assert told.folder == str(Path("runs/first").resolve())
    assert "hidden" not in repr(told)


def test_a_sweep_s_name_becomes_a_project_that_w_and_b_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    for name, project in (("a:b #1?", "a-b -1-"), ("n" * 200, "n" * 128)):
        told = tracking_of(dataclasses.replace(declared(track=("wandb",)), name=name), tmp_path, "search")
        assert told is not None
        assert told.project == project


def test_a_run_keeps_its_token_and_another_of_its_name_has_its_own(tmp_path: Path) -> None:
    for folder, writers in (("a", ["20261129T101500-7"]), ("b", ["20261129T101501-7"])):
        (tmp_path / folder / "journal").mkdir(parents=True)
        for writer in writers:
            (tmp_path / folder / "journal" / f"{writer}-0.jsonl").touch()
    token = token_of(tmp_path / "a")
    assert token != token_of(tmp_path / "b")
    (tmp_path / "a" / "journal" / "20261129T101500-7-1.jsonl").touch()  # as in an object store
    (tmp_path / "a" / "journal" / "20261130T090000-9-0.jsonl").touch()  # of the driver that goes on
    assert token_of(tmp_path / "a") == token


def test_a_table_is_plain_data() -> None:
    some = {"a": [1, 2], "b": [1.5, float("nan")], "c": [None, None], "d": ["x", None], "e": [True, False]}
    frame = pd.DataFrame(some)
    columns, rows = as_table(frame)
    assert columns == ["a", "b", "d", "e"]
    assert rows == [[1, 1.5, "x", True], [2, None, None, False]]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_a_library_that_is_not_installed_is_one_line_and_nothing_starts(tmp_path: Path) -> None:
    """In an interpreter of its own that sees all packages but that one."""
    hidden = "import importlib.util, sys; f = importlib.util.find_spec; "
    hidden += "importlib.util.find_spec = lambda name, *rest: None if name == 'mlflow' else f(name, *rest); "
    words = ["run", "trainables.tasks.digits:build", "--track", "mlflow", "--storage", str(tmp_path)]
    command = [sys.executable, "-c", f"{hidden}from sweeps.engine.cli import ampsweep; ampsweep({words!r})"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert done.stderr == (
        "error: --track: needs the package mlflow, which is not installed, got 'mlflow'; "
        'pip install "ampsweep[mlflow]", or leave it out\n'
    )


def test_a_folder_of_a_library_s_name_is_not_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_library").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(LIBRARIES, "mlflow", "a_library")
    with pytest.raises(SweepError, match="needs the package a_library, which is not installed"):
        check_installed(declared(track=("mlflow",)))


def test_what_is_installed_is_not_refused() -> None:
    assert importlib.util.find_spec("tensorboardX") is not None  # Ray Tune needs it
    check_installed(declared(track=("wandb", "tensorboard")))


def within(seconds: float, condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)
    return found


def ended_runs(folder: Path, results: Results) -> list[Run]:
    """All runs, once each has ended as its trial did; they may do so a little after the sweep."""
    trials = launched(results).set_index("trial_id")["status"].to_dict() | {"summary": "completed"}

    def ended() -> list[Run] | None:
        runs = read_runs(folder)  # the last part of a run says how it ended
        ends = {run.name: run.summary.get("status") for run in runs if run.exit_code is not None}
        return runs if ends == trials else None

    return within(60, ended)


def launched(results: Results) -> pd.DataFrame:
    trials = results.trials
    return trials[(trials["stage"] != "probe") & ~trials["status"].isin(["excluded", "unsupported"])]


def check_against(results: Results, runs: list[Run]) -> None:
    """Every report of the results is in a run once, and nothing else is."""
    for trial_id, history in results.history.groupby("trial_id"):
        rows = pd.DataFrame([row for each in runs if each.name == trial_id for row in each.history])
        assert list(rows["step"]) == list(history["step"]), trial_id
        columns = [name for name in SAME if name in history and history[name].notna().any()]
        pd.testing.assert_frame_equal(
            rows[columns].astype(float), history[columns].astype(float).reset_index(drop=True), check_exact=True
        )
        assert list(rows["amp/skipped_steps"]) == list(history["skipped_steps"])


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' Ray has begun before: its workers do not have the variable of their own."""
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.ray
def test_every_trial_of_a_sweep_is_a_run(ray_address: str, tmp_path: Path, offline: None) -> None:
    sweep = Sweep(
        name="tracked",
        task="trainables.tasks.digits:build",
        space={"learning_rate": loguniform(1e-4, 1e-2), "width": choice([4, 8])},
        precisions=("fp32", "bf16-mixed"),
        metric="val_accuracy",
        num_trials=8,
        max_epochs=4,
        reduction_factor=2,
        confirm=Confirm(num_seeds=1, target_speedup=100.0),
        cpus_per_trial=1.5,
        storage=str(tmp_path),
        run_name="first",
        wandb_project="project",
        track=("tensorboard",),
    )
    results = run(sweep)
    runs = ended_runs(tmp_path / "first", results)
    assert {each.group for each in runs} == {"first"}
    assert {each.project for each in runs} == {"project"}
    assert len(runs) == len(launched(results)) + 1
    check_against(results, runs)
    by_name = {each.name: each for each in runs}
    trials = launched(results).set_index("trial_id")
    assert set(trials["status"]) == {"completed", "pruned"}
    for trial_id, trial in trials.iterrows():
        own = by_name[str(trial_id)]
        assert (own.stage, own.config["precision"], own.config["seed"]) == (trial.stage, trial.precision, trial.seed)
        assert own.config["learning_rate"] == trial["config/learning_rate"]
        assert own.summary["status"] == trial.status
        assert own.summary["status_reason"] == (trial.status_reason if trial.status == "pruned" else "")
        assert own.exit_code == 0
        assert own.history[-1]["peak_memory_bytes"] == trial.peak_memory_bytes
        assert own.history[-1]["amp/effective_precision"] == trial.effective_precision
        assert list((tmp_path / "first" / "tensorboard" / str(trial_id)).glob("events.out.*"))
    (table,) = (tmp_path / "first" / "wandb").glob("*summary*/files/media/table/verdicts_*.table.json")
    told = json.loads(table.read_text())
    verdict = told["columns"].index("verdict")
    assert [row[verdict] for row in told["data"]] == list(results.verdicts["verdict"])


@pytest.mark.ray
def test_a_trial_that_goes_on_after_its_process_died_goes_on_with_its_run(
    ray_address: str, tmp_path: Path, offline: None
) -> None:
    sweep = Sweep(
        name="dies",
        task=f"{HERE / 'tasks_that_fail.py'}:build",
        space={"fault": choice(["none", "kill once", "kill"]), "marker": str(tmp_path / "killed")},
        precisions=("fp32",),
        searcher="grid",
        num_trials=3,
        max_epochs=4,
        checkpoint_every_s=0,
        scheduler="fifo",
        cpus_per_trial=1.5,
        stage="search",
        storage=str(tmp_path),
        run_name="dies",
        wandb_project="project",
    )
    results = run(sweep)
    assert (tmp_path / "killed").exists()
    assert list(launched(results)["status"]) == ["completed", "completed", "lost"]
    runs = ended_runs(tmp_path / "dies", results)
    check_against(results, runs)
    assert len({each.run_id for each in runs}) == 4  # the trials' and the summary
    lost = launched(results).iloc[2]
    within(60, lambda: lost.status_reason in reasons(tmp_path / "dies", lost.trial_id))


def reasons(folder: Path, name: str) -> list[str | None]:
    return [run.summary.get("status_reason") for run in read_runs(folder) if run.name == name]
