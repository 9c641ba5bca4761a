"""Sweeps whose trials have two workers each, on a real Ray."""

import time
from pathlib import Path

import pytest
import ray
import task_of_two
import torch

from sweeps import Confirm, Sweep, choice, run

pytestmark = pytest.mark.ray
HERE = Path(__file__).parent


def test_trials_of_two_workers_are_pruned_go_on_after_a_kill_and_are_confirmed(ray_address: str, tmp_path: Path):
    sweep = Sweep(
        name="two",
        task=f"{HERE / 'task_of_two.py'}:build",
        space={"run": str(tmp_path / "run"), "learning_rate": choice([1e-2, 1e-3, 1e-4])},
        precisions=("fp32", "bf16-mixed"),
        searcher="grid",
        num_trials=6,
        max_epochs=4,
        reduction_factor=2,
        workers_per_trial=2,
        cpus_per_trial=2,
        checkpoint_every_s=0,
        route="default",
        confirm=Confirm(num_seeds=1),
        storage=str(tmp_path),
        run_name="run",
    )
    results = run(sweep)
    assert (tmp_path / "killed").exists()
    assert results.trials["ended_at"].notna().all()
    assert (results.trials["num_workers"] == 2).all()
    assert (results.trials["num_cpus"] == 2).all()
    searched = results.trials[results.trials["stage"] == "search"]
    assert len(searched) == 6
    assert set(searched["status"]) == {"completed", "pruned"}
    completed = results.trials[results.trials["status"].eq("completed") & results.trials["stage"].ne("probe")]
    reports = results.history.groupby("trial_id")["step"].apply(list)
    assert all(reports[trial] == [4, 8, 12, 16] for trial in completed["trial_id"])
    confirmed = results.trials[results.trials["stage"] == "confirm"]
    assert set(confirmed["precision"]) == {"fp32", "bf16-mixed"}
    assert (confirmed["status"] == "completed").all()
    assert (results.timings["status"] == "completed").all(), results.timings["status_reason"].tolist()
    assert (results.timings["step_ms"] > 0).all()
    deadline = time.monotonic() + 20  # nothing stays reserved
    while ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)


def test_a_model_shared_out_over_two_workers_is_confirmed(ray_address: str, tmp_path: Path):
    sweep = Sweep(
        name="shared",
        task=f"{HERE / 'task_of_two.py'}:build_blocks",
        space={"learning_rate": 1e-2},
        precisions=("fp32", "bf16-mixed"),
        num_trials=0,
        max_epochs=2,
        workers_per_trial=2,
        fsdp=True,
        cpus_per_trial=2,
        checkpoint_every_s=0,
        route="default",
        confirm=Confirm(num_seeds=1),
        storage=str(tmp_path),
        run_name="run",
    )
    results = run(sweep)
    confirmed = results.trials[results.trials["stage"] == "confirm"]
    assert list(confirmed["status"]) == ["completed"] * 2, confirmed["status_reason"].tolist()
    assert (results.timings["status"] == "completed").all(), results.timings["status_reason"].tolist()
    task_of_two.Blocks().load_state_dict(torch.load(results.best().checkpoint))  # whole again
