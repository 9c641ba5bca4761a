"""Whole sweeps beside a W&B that fails: no trial is kept waiting, and every row is there."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from wandb_files import read_runs

from benchmarks.tracking import ENDED, FULL, REFUSED, arranged, declare, measure

NUM_TRIALS, NUM_STEPS = 3, 60
STEPS = list(range(1, NUM_STEPS + 1))
SLACK_S = 3.0
"""What a machine at work may add to a time."""


@pytest.mark.ray
@pytest.mark.parametrize("condition", [ENDED, FULL, REFUSED])
def test_a_sweep_is_whole_whatever_becomes_of_w_and_b(
    condition: str, ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    with arranged(condition, tmp_path) as environment:
        if environment is None:
            pytest.skip("only root can mount a file system of 64 KiB, and not everywhere")
        sweep = declare(condition, tmp_path, NUM_TRIALS, NUM_STEPS)
        measured = measure(dataclasses.replace(sweep, cpus_per_trial=1.5), environment)  # one worker, of two that start
    results, kept_s = measured.results, measured.kept_s
    searched = results.trials.query("stage == 'search'").set_index("trial_id")
    assert list(searched["status"]) == ["completed"] * NUM_TRIALS
    for _, reports in results.history.groupby("trial_id"):
        assert list(reports["step"]) == STEPS
    assert len(results.history) == NUM_TRIALS * NUM_STEPS

    assert len(kept_s["saw"]) == NUM_TRIALS * NUM_STEPS
    assert measured.num_sleeps < 0.05 * len(kept_s["saw"])  # they wait for nothing but, at times, a processor
    assert statistics.median(kept_s["saw"]) < 0.01
    assert sum(kept_s["saw"]) < 0.01 * len(kept_s["saw"]) + SLACK_S
    assert max(kept_s["__init__"]) < SLACK_S
    assert max(kept_s["wait"]) < 5 + SLACK_S
    assert measured.said.count("\n  wandb: ") == 1

    folder, trial_ids = tmp_path / "kept", list(searched.index)
    if condition == REFUSED:  # W&B's files hold all, a little after the sweep
        wait_for(lambda: told(folder, trial_ids) == [STEPS] * NUM_TRIALS)
    for steps in told(folder, trial_ids):
        assert sorted(set(steps)) == steps


def told(folder: Path, trial_ids: list[str]) -> list[list[int]]:
    """The steps of each trial that W&B's files hold."""
    runs = read_runs(folder)
    return [[row["step"] for run in runs if run.name == name for row in run.history] for name in trial_ids]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)
