"""Interrupted runs go on: nothing that has ended runs again, and the end is that of an undisturbed run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis import load
from sweeps import Confirm, Sweep, SweepError, choice, loguniform, run
from sweeps.engine.folders import Home
from sweeps.engine.resume import LAST, read_past
from sweeps.engine.stages import KEPT
from sweeps.engine.unfinished import find_run
from trainables.loading import find_task

NUM_TRIALS = 4
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
    max_epochs=4,
    reduction_factor=2,
    confirm=Confirm(num_seeds=2),
    run_name="first",
    cpus_per_trial=1.5,
    checkpoint_every_s=0,
    route="channels_last",
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
        "num_trials": NUM_TRIALS,
        "max_epochs": 4,
        "reduction_factor": 2,
        "confirm": Confirm(num_seeds=2),
        "cpus_per_trial": 1.5,  # one trial at a time, of one thread
        "route": "channels_last",  # else it follows from times, and bits from it
        "run_name": "first",
        "storage": str(storage),
    }
    return Sweep(**{**known, **changes})


RATES = ["samples_per_s", "steps_per_s", "applied_steps_per_s", "data_wait_share"]
TIMES = ["train_s", "wall_s", "step_ms", *RATES, "started_at", "ended_at"]
"""Columns that depend on when a trial ran."""


def outcome(folder: Path) -> pd.DataFrame:
    """All that does not depend on time or place."""
    trials = load(folder).trials
    trials["checkpoint"] = [path if pd.isna(path) else Path(path).relative_to(folder) for path in trials["checkpoint"]]
    trials = trials[trials["stage"] != "probe"].drop(columns=[*TIMES, "node"])
    return trials.sort_values("trial_id").reset_index(drop=True)


def history(folder: Path) -> pd.DataFrame:
    return load(folder).history.sort_values(["trial_id", "step"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def undisturbed(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("undisturbed")
    run(declared(storage))
    return storage / "first"


def records(folder: Path) -> list[dict]:
    """What the journal holds at this moment, without a line that is being written."""
    lines = [line for file in sorted(folder.glob("journal/*.jsonl")) for line in file.read_text().split("\n")[:-1]]
    return [json.loads(line) for line in lines]


def num_ended(found: list[dict], stage: str) -> int:
    ended = {r["trial_id"] for r in found if r["kind"] == "trial" and r.get("status", "running") != "running"}
    return sum(trial_id.startswith(stage) for trial_id in ended)


def in_a_trial(stage: str, ended: int) -> Callable[[list[dict]], bool]:
    """So many trials of a stage have ended, and another has reported."""

    def reached(found: list[dict]) -> bool:
        running = found[-1]["kind"] == "report" and found[-1]["trial_id"].startswith(stage)
        return num_ended(found, stage) >= ended and running

    return reached


def in_timing(num_timed: int, confirmed: int) -> Callable[[list[dict]], bool]:
    """The search is over; so many pairs have been timed and so many full runs made, and the next pair is at work."""

    def reached(found: list[dict]) -> bool:
        timed = sum(record["kind"] == "timing" for record in found)
        return (num_ended(found, "search"), num_ended(found, "confirm"), timed) == (NUM_TRIALS, confirmed, num_timed)

    return reached


def start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    # Tests that run in the background may ignore SIGINT, and so would all that they start.
    heeding = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    words = [sys.executable, "-c", f"{heeding}; runpy.run_path('tiny.py', run_name='__main__')", *flags]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def interrupt(
    driver: subprocess.Popen[str], how: signal.Signals, folder: Path, reached: Callable[[list[dict]], bool]
) -> str:
    """Ends a driver by a signal once its journal has reached a point; what it wrote to standard error."""
    deadline = time.monotonic() + 120
    while not ((found := records(folder)) and reached(found)):
        assert driver.poll() is None, driver.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(driver.pid, how)
    return driver.communicate(timeout=60)[1]


INTERRUPTIONS = [
    (signal.SIGKILL, in_a_trial("search", ended=1)),
    (signal.SIGINT, in_a_trial("search", ended=2)),
    (signal.SIGTERM, in_timing(num_timed=0, confirmed=0)),
    (signal.SIGKILL, in_timing(num_timed=0, confirmed=0)),
    (signal.SIGKILL, in_a_trial("confirm", ended=1)),
    (signal.SIGTERM, in_a_trial("confirm", ended=2)),
    (signal.SIGINT, in_timing(num_timed=1, confirmed=4)),
]


@pytest.mark.ray
def test_a_driver_that_is_ended_in_any_stage_goes_on(undisturbed: Path, tmp_path: Path):
    (tmp_path / "tiny.py").write_text(SCRIPT)
    folder = tmp_path / "runs" / "first"
    shown, ended, flags = [], {}, []
    for how, reached in INTERRUPTIONS:
        driver = start(tmp_path, *flags)
        errors = interrupt(driver, how, folder, reached)
        if how != signal.SIGKILL:
            assert driver.returncode == 1
            assert errors.splitlines()[-1] == f"error: interrupted; {KEPT}"
            assert "Traceback" not in errors
        shown.append(history(folder))
        ended |= {t.trial_id: t.ended_at for t in load(folder).trials.itertuples() if t.status != "running"}
        flags = ["--resume"]
    last = start(tmp_path, "--resume")
    _, errors = last.communicate(timeout=120)
    assert last.returncode == 0, errors

    pd.testing.assert_frame_equal(outcome(folder), outcome(undisturbed), check_exact=True)
    everything, expected = history(folder), history(undisturbed)
    pd.testing.assert_frame_equal(
        everything.drop(columns=["train_s", *RATES]),
        expected.drop(columns=["train_s", *RATES]),
        check_exact=True,
    )
    assert not everything.duplicated(["trial_id", "step"]).any()
    reports = [r for r in records(folder) if r["kind"] == "report"]
    assert len(reports) == len(everything)  # not even the journal has one twice
    for seen in shown:
        again = everything.merge(seen[["trial_id", "step"]], on=["trial_id", "step"])
        pd.testing.assert_frame_equal(again[seen.columns], seen, check_exact=True)
    trials = load(folder).trials.set_index("trial_id")
    assert all(trials["ended_at"][trial_id] == at for trial_id, at in ended.items())  # no finished one ran again
    assert len(load(folder).verdicts) > 0
    again = start(tmp_path, "--resume")
    assert again.communicate(timeout=60)[1].startswith("error: --resume: ")
    assert again.returncode == 2


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run's folder as a finished probe leaves it, without having run."""
    from sweeps.engine.journal import Journal, write_declaration

    sweep = declared(tmp_path)
    with Journal(tmp_path / "first") as journal:
        for precision, status in (("fp32", "completed"), ("bf16-mixed", "excluded")):
            journal.write(
                "trial",
                {"trial_id": f"probe-{precision}", "stage": "probe", "precision": precision, "status": status}
                | {"device": "X"},
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


def test_a_finished_run_goes_on_only_where_more_is_asked_of_it(finished: Path):
    file = finished / "first" / "sweep.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"ended_at": "2026-11-23T00:00:00+00:00"}))
    sweep = declared(finished)
    with pytest.raises(SweepError, match="resume: needs a run that has not finished, as first has"):
        read_past(finished / "first", sweep, find_task(sweep.task))
    more = declared(finished, confirm=Confirm(num_seeds=8))
    assert read_past(finished / "first", more, find_task(more.task)).ended
