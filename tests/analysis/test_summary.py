import math

import pytest
from journals import trial, write_sweep

from analysis import ResultsError, load


def searched(name, precision, best, **columns):
    values = {"stage": "search", "status": "completed", "best_val_accuracy": best, "val_accuracy": best} | columns
    return trial(name, precision=precision, **values)


TRIALS = [
    trial("probe-fp32", stage="probe", precision="fp32", status="completed", samples_per_s=1.0, val_accuracy=1.0),
    searched("a", "fp32", 0.7, samples_per_s=100.0, step_ms=4.0, skipped_steps=0, config={"width": 16, "lr": 0.1}),
    searched("b", "fp32", 0.9, samples_per_s=300.0, status="pruned", val_loss=0.3, config={"width": 32}),
    searched("c", "fp32", 0.9, samples_per_s=200.0, val_loss=0.2, checkpoint="checkpoints/c", config={"width": 64}),
    searched("d", "bf16-mixed", 0.8, stage="confirm", skipped_steps=2),
    searched("e", "bf16-mixed", 0.99, status="diverged", skipped_steps=5),
    searched("f", "bf16-mixed", None, status="running"),
]


def test_summary_by_hand(tmp_path):
    table = load(write_sweep(tmp_path, TRIALS)).summary()
    assert table["precision"].tolist() == ["fp32", "bf16-mixed"]
    assert table["num_trials"].tolist() == [3, 3]
    assert table["num_completed"].tolist() == [2, 1]
    assert table["num_pruned"].tolist() == [1, 0]
    assert table["num_diverged"].tolist() == [0, 1]
    assert table["samples_per_s"][0] == 200.0
    assert math.isnan(table["samples_per_s"][1])
    assert table["best_val_accuracy"].tolist() == [0.9, 0.99]
    assert table["median_val_accuracy"].tolist() == pytest.approx([0.9, 0.895])
    assert table["skipped_steps"].tolist() == [0.0, 3.5]
    assert table.attrs["exploratory"] is True
    assert "xploratory" in table.attrs["caption"]


def test_summary_by_several_columns_and_missing_values(tmp_path):
    results = load(write_sweep(tmp_path, TRIALS))
    assert len(results.summary(["precision", "status"])) == 5
    by_width = results.summary("config/width")
    assert by_width["num_trials"].sum() == 6
    assert by_width["config/width"].isna().sum() == 1
    with pytest.raises(ResultsError, match="by: must be columns of trials, got 'speed'; use one such as sweep, stage"):
        results.summary("speed")
    with pytest.raises(ResultsError):
        results.summary([])


def test_summary_of_an_empty_sweep(tmp_path):
    table = load(write_sweep(tmp_path)).summary()
    assert len(table) == 0
    assert table["num_trials"].dtype == "Int64"
    assert table.attrs["exploratory"] is True


def test_sweeps_of_different_metrics_are_told_apart(tmp_path):
    one = write_sweep(tmp_path / "1", TRIALS)
    other = [trial("a", stage="search", status="completed", precision="fp32", val_f1=0.5)]
    two = write_sweep(tmp_path / "2", other, run_name="other", metric="val_f1")
    results = load(one, two)
    table = results.summary()
    assert table["sweep"].tolist() == ["digits-1", "digits-1", "other"]
    assert table["best_val_f1"][2] == 0.5
    assert table.attrs["exploratory"] is True
    with pytest.raises(ResultsError, match="must be asked of sweeps of one metric"):
        results.best()


def test_best_breaks_ties_by_loss(tmp_path):
    best = load(write_sweep(tmp_path, TRIALS)).best()
    assert (best.trial_id, best.value, best.metric, best.precision) == ("c", 0.9, "val_accuracy", "fp32")
    assert best.config == {"width": 64}
    assert type(best.config["width"]) is int
    assert best.checkpoint == str(tmp_path / "checkpoints" / "c")
    assert best.row["samples_per_s"] == 200.0


def test_best_of_one_precision_ignores_what_diverged(tmp_path):
    results = load(write_sweep(tmp_path, TRIALS))
    best = results.best("bf16-mixed")
    assert (best.trial_id, best.checkpoint) == ("d", None)
    with pytest.raises(
        ResultsError, match="must find a completed or pruned trial of fp8-rowwise that has a val_accuracy"
    ):
        results.best("fp8-rowwise")


def test_best_is_by_the_last_value_and_of_pruned_trials_only_where_none_completed(tmp_path):
    peaked = searched("peaked", "fp32", 0.95, val_accuracy=0.6)
    pruned = [
        searched(name, "fp32", 0.99, val_accuracy=value, status="pruned") for name, value in (("p", 0.97), ("q", 0.98))
    ]
    assert load(write_sweep(tmp_path / "1", [*TRIALS, peaked, *pruned])).best().trial_id == "c"
    best = load(write_sweep(tmp_path / "2", pruned)).best()
    assert (best.trial_id, best.value) == ("q", 0.98)


def test_best_of_mode_min(tmp_path):
    results = load(write_sweep(tmp_path, TRIALS, metric="val_loss", mode="min"))
    assert (results.best().trial_id, results.best().value) == ("c", 0.2)
