"""Whole sweeps, small ones, on a real Ray."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from brief_timing import time_briefly

from sweeps import Confirm, Sweep, SweepError, choice, loguniform, run
from sweeps.search.plan import plan_search
from trainables import load_exported
from trainables.loading import build_task, find_task
from trainables.spec import Budget, TrialSpec

pytestmark = pytest.mark.ray
HERE = Path(__file__).parent
AMPSWEEP = str(Path(sys.executable).parent / "ampsweep")


@pytest.fixture(scope="module")
def digits(ray_address: str, tmp_path_factory: pytest.TempPathFactory):
    """A sweep over digits with everything in it, and its results."""
    sweep = Sweep(
        name="tiny",
        task="trainables.tasks.digits:build",
        space={"learning_rate": loguniform(1e-3, 1e-2), "width": choice([4, 8])},
        precisions=("bf16-mixed", "fp16-mixed", "tf32", "fp32"),
        metric="val_accuracy",
        num_trials=8,
        max_epochs=4,
        reduction_factor=2,
        searcher="sobol",
        confirm=Confirm(num_seeds=2, target_speedup=100.0, margin=0.2),
        storage=str(tmp_path_factory.mktemp("runs")),
        run_name="first",
        seed=3,
    )
    with pytest.MonkeyPatch.context() as patch:
        time_briefly(patch)
        return sweep, run(sweep)


def test_every_planned_trial_is_a_row_and_ends(digits):
    sweep, results = digits
    searched = results.trials[results.trials["stage"] == "search"]
    usable = list(results.trials.query("stage == 'probe' and status == 'completed'")["precision"])
    assert "fp32" in usable
    assert sorted(searched["trial_id"]) == sorted(trial.trial_id for trial in plan_search(sweep, usable))
    assert set(searched["status"]) <= {"completed", "pruned"}
    assert (searched["effective_precision"] == searched["precision"]).all()
    assert (
        searched[["val_accuracy", "best_val_accuracy", "val_loss", "step_ms", "peak_memory_bytes"]]
        .notna()
        .to_numpy()
        .all()
    )
    assert (searched["ended_at"] >= searched["started_at"]).all()


def test_asha_pruned_by_its_rungs(digits):
    _, results = digits
    searched = results.trials[results.trials["stage"] == "search"]
    reports = results.history[results.history["stage"] == "search"].groupby("trial_id").size()
    lengths = searched.set_index("trial_id")["epochs"].astype(int)
    pd.testing.assert_series_equal(reports.sort_index(), lengths.sort_index(), check_names=False, check_dtype=False)
    pruned = searched[searched["status"] == "pruned"]
    assert len(pruned) > 0
    assert set(pruned["epochs"]) <= {1.0, 2.0}  # the rungs of (grace 1, factor 2, max 4)
    assert (searched[searched["status"] == "completed"]["epochs"] == 4).all()
    assert pruned["status_reason"].str.startswith("stopped by asha").all()


def test_precisions_left_out_are_rows_with_a_reason(digits):
    _, results = digits
    probed = results.trials[results.trials["stage"] == "probe"].set_index("precision")
    assert set(probed.index) == {"bf16-mixed", "fp16-mixed", "tf32", "fp32"}
    assert probed.loc["tf32", "status"] == "unsupported"
    assert probed.loc["tf32", "status_reason"]
    assert probed.loc["fp32", "status"] == "completed"
    assert "tf32" not in set(results.trials[results.trials["stage"] != "probe"]["precision"])


def test_confirm_pairs_every_winner_in_every_precision(digits):
    sweep, results = digits
    confirmed = results.trials[results.trials["stage"] == "confirm"]
    usable = set(results.trials.query("stage == 'probe' and status == 'completed'")["precision"])
    assert set(confirmed["precision"]) == usable
    assert (confirmed["status"] == "completed").all()
    assert (confirmed["epochs"] == sweep.max_epochs).all()
    for _, block in confirmed.groupby("block_id"):
        assert sorted(block["precision"]) == sorted(usable)
        assert block["init_digest"].nunique() == block["data_digest"].nunique() == 1
    assert confirmed.groupby("config_id")["seed"].nunique().eq(2).all()
    searched = results.trials[results.trials["stage"] == "search"]
    assert not set(confirmed["seed"]) & set(searched["seed"])


def test_the_winners_are_the_best_of_each_precision(digits):
    _, results = digits
    searched = results.trials[results.trials["stage"] == "search"]
    best = set()
    for _, group in searched.groupby("precision"):
        ranked = group.sort_values(["best_val_accuracy", "val_loss"], ascending=[False, True])
        best.add(ranked.iloc[0]["config_id"])
    assert set(results.trials[results.trials["stage"] == "confirm"]["config_id"]) == best


def test_examples_average_to_the_metric(digits):
    _, results = digits
    for trial in results.trials[results.trials["stage"] == "confirm"].itertuples():
        values = results.examples(trial.trial_id)
        assert values.shape == (results.examples(trial.trial_id).size,)
        assert set(np.unique(values)) <= {0.0, 1.0}
        assert values.mean() == pytest.approx(trial.val_accuracy, abs=1e-12)


def test_timings_hold_every_arm_and_the_copy(digits):
    _, results = digits
    usable = set(results.trials.query("stage == 'probe' and status == 'completed'")["precision"])
    assert (results.timings["status"] == "completed").all()
    for _, block in results.timings.groupby("block_id"):
        assert set(block[~block["is_copy"]]["precision"]) == usable
        assert (block["kernel"].str.split(" ").str[0].isin(["oneDNN", "MKL", "PyTorch's"])).all()
        assert list(block[block["is_copy"]]["precision"]) == ["fp32"]
        assert block["window_ms"].map(len).ge(2).all()
        assert block["init_digest"].nunique() == block["data_digest"].nunique() == 1


def test_verdicts_cover_each_arm(digits):
    _, results = digits
    usable = set(results.trials.query("stage == 'probe' and status == 'completed'")["precision"]) - {"fp32"}
    assert set(results.verdicts["precision"]) == usable
    assert set(results.verdicts["baseline"]) == {"fp32"}
    shared = results.timings.groupby(["config_id", "block_id"])["contended"].any()  # by whatever else this machine does
    sound = (~shared).groupby("config_id").sum()
    own = results.verdicts[results.verdicts["config_id"] != "best"]
    assert list(own["num_pairs"]) == list(sound[own["config_id"]])
    assert results.verdicts["num_pairs"].le(2).all()
    assert not (results.verdicts["verdict"] == "PASS").any()  # nobody is 100 times faster
    assert results.verdicts["reason"].str.len().gt(20).all()


def test_every_run_of_a_precision_takes_the_route_that_the_probe_found(digits):
    _, results = digits
    probed = results.trials.query("stage == 'probe' and status == 'completed'").set_index("precision")["route"]
    assert set(probed) <= {"default", "channels_last", "onednn", "channels_last+onednn"}
    by_default = results.timings["is_default"]
    assert by_default.any() == (probed["fp32"] != "default")
    assert set(results.timings[by_default]["route"]) <= {"default"}
    for table in (results.trials.query("stage != 'probe'"), results.timings[~by_default]):
        assert table["route"].notna().all()
        assert (table["route"] == table["precision"].map(probed)).all()


def test_trials_are_compiled_where_the_sweep_says_so(digits, ray_address: str, tmp_path: Path):
    _, eager = digits
    for table in (eager.trials.query("status == 'completed'"), eager.timings):
        assert table["compiled"].eq(False).all()
    products = f"{HERE.parent / 'trainables' / 'tiny_tasks.py'}:products"
    sweep = Sweep("c", products, {}, ("fp32",), num_trials=1, max_epochs=1, stage="search", storage=str(tmp_path))
    compiled = run(dataclasses.replace(sweep, compile=True))
    assert list(zip(compiled.trials["stage"], compiled.trials["status"], compiled.trials["compiled"], strict=True)) == [
        ("probe", "completed", True),
        ("search", "completed", True),
    ]


def test_a_searched_trial_reports_what_the_same_trial_reports_by_itself(digits):
    """Worker processes that Tune reuses, trials of other precisions before: the figures are those of a lone run."""
    from trainables.trial import run_trial

    sweep, results = digits
    searched = results.trials[(results.trials["stage"] == "search") & (results.trials["status"] == "completed")]
    usable = list(results.trials.query("stage == 'probe' and status == 'completed'")["precision"])
    planned = {trial.trial_id: trial for trial in plan_search(sweep, usable)}
    source = find_task(sweep.task)
    for trial_id, route in zip(searched["trial_id"], searched["route"], strict=True):
        trial = planned[trial_id]
        spec = TrialSpec(trial_id, source, trial.config, trial.precision, trial.seed, Budget(max_epochs=4), route=route)
        alone = [(report.train_loss, report.metrics["val_loss"]) for report in run_trial(spec)]
        history = results.history[results.history["trial_id"] == trial_id]
        assert list(zip(history["train_loss"], history["val_loss"], strict=True)) == alone


def test_the_best_of_each_precision_is_kept_and_exported_and_loads_back(digits, tmp_path: Path):
    sweep, results = digits
    folder = Path(sweep.storage) / "first"
    kept = results.trials[results.trials["checkpoint"].notna()].set_index("precision")
    completed = results.trials[results.trials["status"].eq("completed") & results.trials["stage"].ne("probe")]
    best = completed.groupby("precision")["val_accuracy"].max()
    assert kept["val_accuracy"].to_dict() == best.to_dict()
    assert {Path(path) for path in kept["checkpoint"]} == set((folder / "checkpoints").rglob("*.*"))
    for precision in ("fp32", "bf16-mixed"):
        target = tmp_path / precision
        done = subprocess.run([AMPSWEEP, "export", folder, target, "--precision", precision], capture_output=True)
        assert done.returncode == 0, done.stderr
        told = json.loads((target / "export.json").read_text())
        assert (told["trial_id"], told["precision"]) == (kept["trial_id"][precision], precision)
        assert told["config"] == results.best(precision).config
        assert {row["precision"] for row in told["verdicts"]} >= {"bf16-mixed"}
        val_set = find_and_build(sweep.task, told["config"]).val_set
        model = load_exported(target)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32"):
            found = (model(val_set.tensors[0]).argmax(1) == val_set.tensors[1]).double().mean()
        assert found == pytest.approx(told["value"], abs=1e-9 if precision == "fp32" else 0.01)
    again = subprocess.run([AMPSWEEP, "export", folder, tmp_path / "fp32"], capture_output=True, text=True)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert again.stderr.startswith("error: target: must be a new or empty folder")


def find_and_build(task: str, config: dict):
    return build_task(find_task(task), config)


def test_a_run_name_is_used_once(digits):
    sweep, _ = digits
    with pytest.raises(SweepError, match="run_name: must be new"):
        run(sweep)
