"""Interrupted runs go on: nothing that has ended runs again, and the end is that of an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from analysis import load
from sweeps import Confirm, Sweep, SweepError, choice, loguniform, run
from sweeps.engine.resume import find_run, read_past
from trainables.loading import find_task

ROOT = Path(__file__).parent.parent.parent
SCRIPT = """
from sweeps import Confirm, Sweep, choice, loguniform, main
sweep = Sweep(
    name="tiny",
    task="trainables.tasks.digits:build",
    space={"learning_rate": loguniform(1e-3, 1e-2), "width": choice([4, 8])},
    precisions=("fp32", "bf16-mixed"),
    metric="val_accuracy",
    num_trials=4,
    max_epochs=2,
    scheduler="fifo",
    confirm=Confirm(num_seeds=2),
    run_name="first",
)
if __name__ == "__main__":
    main(sweep)
"""


def declared(storage: Path, **changes: object) -> Sweep:
    known = {
        "name": "tiny",
        "task": "trainables.tasks.digits:build",
        "space": {"learning_rate": loguniform(1e-3, 1e-2), "width": choice([4, 8])},
        "precisions": ("fp32", "bf16-mixed"),
        "metric": "val_accuracy",
        "num_trials": 4,
        "max_epochs": 2,
        "scheduler": "fifo",
        "confirm": Confirm(num_seeds=2),
        "run_name": "first",
        "storage": str(storage),
    }
    return Sweep(**{**known, **changes})


MEASURED = ["stage", "trial_id", "status", "precision", "seed", "epochs", "steps", "val_accuracy", "val_loss"]
"""Columns that do not depend on when a trial ran."""


def outcome(folder: Path) -> pd.DataFrame:
    trials = load(folder).trials
    return trials[trials["stage"] != "probe"][MEASURED].sort_values("trial_id").reset_index(drop=True)


@pytest.fixture(scope="module")
def undisturbed(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    storage = tmp_path_factory.mktemp("undisturbed")
    run(declared(storage))
    return outcome(storage / "first")


def num_ended(folder: Path, stage: str) -> int:
    lines = [json.loads(line) for file in folder.glob("journal/*.jsonl") for line in file.read_text().splitlines()]
    return sum(
        line["kind"] == "trial" and line["trial_id"].startswith(stage) and line["status"] != "running" for line in lines
    )


def start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    words = [sys.executable, "tiny.py", *flags]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def end(driver: subprocess.Popen[str], how: signal.Signals, folder: Path, stage: str, after: int) -> str:
    """Ends a driver by a signal once so many trials of a stage have ended; what it wrote to standard error."""
    deadline = time.monotonic() + 120
    while num_ended(folder, stage) < after:
        assert driver.poll() is None, driver.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(driver.pid, how)
    return driver.communicate(timeout=60)[1]


@pytest.mark.ray
def test_a_driver_that_is_ended_in_search_and_in_confirm_goes_on(undisturbed: pd.DataFrame, tmp_path: Path):
    (tmp_path / "tiny.py").write_text(SCRIPT)
    folder = tmp_path / "runs" / "first"
    end(start(tmp_path), signal.SIGKILL, folder, "search", after=2)
    interrupted = start(tmp_path, "--resume")
    errors = end(interrupted, signal.SIGTERM, folder, "confirm", after=1)
    assert interrupted.returncode == 1
    assert errors.splitlines()[-1].startswith("error: interrupted")
    assert "Traceback" not in errors
    before = {t.trial_id: t.ended_at for t in load(folder).trials.itertuples() if t.status != "running"}
    assert len(before) >= 2 + 4 + 1
    last = start(tmp_path, "--resume")
    _, errors = last.communicate(timeout=120)
    assert last.returncode == 0, errors
    pd.testing.assert_frame_equal(outcome(folder), undisturbed)
    results = load(folder)
    kept = results.trials.set_index("trial_id")["ended_at"]
    assert all(kept[trial_id] == ended_at for trial_id, ended_at in before.items())
    assert not results.history.duplicated(["trial_id", "step"]).any()
    assert len(results.verdicts) > 0
    again = start(tmp_path, "--resume")
    assert again.communicate(timeout=60)[1].startswith("error: resume: ")
    assert again.returncode == 2


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run's folder as a finished probe leaves it, without having run."""
    from sweeps.engine.journal import Journal, write_declaration

    sweep = declared(tmp_path)
    with Journal(tmp_path / "first") as journal:
        for precision, status in (("fp32", "completed"), ("bf16-mixed", "excluded")):
            journal.write(
                "trial", {"trial_id": f"probe-{precision}", "stage": "probe", "precision": precision, "status": status}
            )
        for trial_id, status in (("search-0000-fp32", "pruned"), ("search-0001-fp32", "running")):
            journal.write("trial", {"trial_id": trial_id, "stage": "search", "precision": "fp32", "status": status})
        for trial_id, step, value in (
            ("search-0000-fp32", 22, 0.5),
            ("search-0001-fp32", 22, None),
            ("search-0001-fp32", 44, 0.75),
            ("search-0001-fp32", 44, 0.75),
        ):
            journal.write("report", {"trial_id": trial_id, "stage": "search", "step": step, "val_accuracy": value})
        journal.write("timing", {"block_id": "b", "status": "completed", "arms": []})
        journal.write("timing", {"block_id": "c", "status": "errored", "arms": []})
    resolved = {"run_name": "first", "metric": "val_accuracy", "mode": "max", "probed": True}
    write_declaration(tmp_path / "first", {**sweep.to_json(), **resolved})
    return tmp_path


def test_the_past_is_what_the_journal_says(finished: Path):
    sweep = declared(finished)
    past = read_past(finished / "first", sweep, find_task(sweep.task))
    assert past.usable == ["fp32"]
    assert past.ended == {"probe-fp32", "probe-bf16-mixed", "search-0000-fp32"}
    assert past.timed == {"b"}
    statuses = {trial_id: row["status"] for trial_id, row in past.searched.items()}
    assert statuses == {"search-0000-fp32": "pruned", "search-0001-fp32": "running"}
    numbers = [(trial_id, t) for _, trial_id, t, _ in past.reports]
    assert numbers == [("search-0000-fp32", 1), ("search-0001-fp32", 1), ("search-0001-fp32", 2)]
    assert [value == value for *_, value in past.reports] == [True, False, True]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_trials": 9}, "num_trials"),
        ({"max_epochs": 4}, "max_epochs"),
        ({"space": {"width": choice([4, 8])}}, "space"),
        ({"precisions": ("fp32", "bf16-true")}, "precisions"),
        ({"seed": 1}, "seed"),
        ({"metric": "val_loss"}, "metric"),
        ({"confirm": Confirm(num_seeds=2, margin=0.5)}, "confirm.margin"),
        ({"confirm": Confirm(num_seeds=2, target_speedup=1.1)}, "confirm.target_speedup"),
    ],
)
def test_another_sweep_does_not_go_on(finished: Path, changes: dict, field: str):
    sweep = declared(finished, **changes)
    with pytest.raises(SweepError, match=f"^{field}: must be as in the run that goes on") as refused:
        read_past(finished / "first", sweep, find_task(sweep.task))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "changes", [{"confirm": Confirm(num_seeds=8)}, {"cpus_per_trial": 2}, {"stage": "search"}, {"metric": None}]
)
def test_what_may_change_goes_on(finished: Path, changes: dict):
    sweep = declared(finished, **changes)
    assert read_past(finished / "first", sweep, find_task(sweep.task)).ended


def test_the_newest_unfinished_run_of_the_sweep_is_found(finished: Path):
    assert find_run(declared(finished, run_name=None)) == finished / "first"
    with pytest.raises(SweepError, match="resume: needs an unfinished run of 'other'"):
        find_run(declared(finished, run_name=None, name="other"))
    with pytest.raises(SweepError, match="run_name: must be a run"):
        find_run(declared(finished, run_name="second"))
    file = finished / "first" / "sweep.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"ended_at": "2026-11-23T00:00:00+00:00"}))
    with pytest.raises(SweepError, match="resume: needs an unfinished run"):
        find_run(declared(finished, run_name=None))


def test_a_finished_run_goes_on_only_where_more_is_asked_of_it(finished: Path):
    file = finished / "first" / "sweep.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"ended_at": "2026-11-23T00:00:00+00:00"}))
    sweep = declared(finished)
    with pytest.raises(SweepError, match="resume: needs a run that has not finished, as first has"):
        read_past(finished / "first", sweep, find_task(sweep.task))
    more = declared(finished, confirm=Confirm(num_seeds=8))
    assert read_past(finished / "first", more, find_task(more.task)).ended
