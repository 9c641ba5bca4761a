"""Interrupted runs go on: nothing that has ended runs again, and the end is that of an undisturbed run."""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from drivers import NUM_TRIALS, declared, driver, errors_of

from analysis import load
from sweeps import run
from sweeps.engine.stages import KEPT

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


def interrupt(storage: Path, flags: Sequence[str], how: signal.Signals, reached: Callable[[list[dict]], bool]) -> None:
    """Ends a driver by a signal once its journal has reached a point."""
    with driver(storage, *flags) as process:
        deadline = time.monotonic() + 120
        while not ((found := records(storage / "first")) and reached(found)):
            assert process.is_alive(), errors_of(storage)
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, how)
        process.join(60)
        if how == signal.SIGKILL:
            assert process.exitcode == -how
            return
        assert process.exitcode == 1
    errors = errors_of(storage)
    assert errors.splitlines()[-1] == f"error: interrupted; {KEPT}"
    assert "Traceback" not in errors


def resume(storage: Path) -> int | None:
    """Goes on to the end; the exit code."""
    with driver(storage, "--resume") as process:
        process.join(120)
        return process.exitcode


INTERRUPTIONS = [
    (signal.SIGKILL, in_a_trial("search", ended=1)),
    (signal.SIGTERM, in_timing(num_timed=0, confirmed=0)),
    (signal.SIGKILL, in_a_trial("confirm", ended=1)),
    (signal.SIGINT, in_timing(num_timed=1, confirmed=4)),
]


@pytest.mark.ray
def test_a_driver_that_is_ended_in_any_stage_goes_on(ray_address: str, tmp_path: Path):
    folder, undisturbed, flags = tmp_path / "first", tmp_path / "undisturbed" / "first", []
    shown, ended = [], {}
    for how, reached in INTERRUPTIONS:
        interrupt(tmp_path, flags, how, reached)
        shown.append(history(folder))
        ended |= {t.trial_id: t.ended_at for t in load(folder).trials.itertuples() if t.status != "running"}
        flags = ["--resume"]
    assert resume(tmp_path) == 0, errors_of(tmp_path)

    run(declared(undisturbed.parent))
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
    assert resume(tmp_path) == 2
    assert errors_of(tmp_path).startswith("error: --resume: ")
