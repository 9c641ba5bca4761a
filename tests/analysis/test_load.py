import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from journals import arm, timing, trial, write_examples, write_sweep

import analysis.journal
from analysis import ResultsError, load
from analysis.schema import HISTORY_COLUMNS, TIMING_COLUMNS, TRIAL_COLUMNS, VERDICT_COLUMNS


def report(trial_id, step, **columns):
    return {"kind": "report", "trial_id": trial_id, "stage": "search", "step": step, **columns}


def append(folder, text):
    with (folder / "journal" / "20261123T101500-7-1.jsonl").open("a") as file:
        file.write(text)


def test_later_lines_override_the_keys_they_carry(tmp_path):
    first = [
        trial("a", stage="search", status="running", seed=3, config={"learning_rate": 0.1}),
        trial("b", status="running"),
    ]
    later = [trial("a", status="completed", val_accuracy=0.9, started_at="2026-11-23T10:15:00.5+00:00")]
    trials = load(write_sweep(tmp_path, first, later)).trials
    assert trials["trial_id"].tolist() == ["a", "b"]
    assert trials["status"].tolist() == ["completed", "running"]
    assert trials["seed"].tolist() == [3, pd.NA]
    assert trials["config/learning_rate"][0] == 0.1
    assert trials["started_at"][0] == pd.Timestamp("2026-11-23T10:15:00.5Z")
    assert trials["sweep"].unique().tolist() == ["digits-1"]
    assert np.isnan(trials["val_accuracy"][1])


def test_segments_are_read_by_number_and_writers_by_name(tmp_path):
    folder = write_sweep(tmp_path)
    for name, seed in (("20261124-1-1", 99), ("20261123-1-10", 10), ("20261123-1-9", 9)):
        (folder / "journal" / f"{name}.jsonl").write_text(json.dumps(trial("a", seed=seed)) + "\n")
    assert load(folder).trials["seed"].tolist() == [99]
    (folder / "journal" / "20261124-1-1.jsonl").unlink()
    assert load(folder).trials["seed"].tolist() == [10]


def test_of_two_reports_of_a_step_the_later_wins_and_trials_keep_their_order(tmp_path):
    records = [trial("b"), trial("a"), report("a", 2, val_accuracy=0.2), report("b", 1, val_accuracy=0.5)]
    records += [
        report("a", 1, val_accuracy=0.1),
        report("a", 2, val_accuracy=0.3),
        report("a", None),
        report("a", None),
    ]
    history = load(write_sweep(tmp_path, records)).history
    assert history["trial_id"].tolist() == ["b", "a", "a", "a", "a"]
    assert history["step"].tolist() == [1, 1, 2, pd.NA, pd.NA]
    assert history["val_accuracy"].tolist()[:3] == [0.5, 0.1, 0.3]


def test_a_torn_last_line_is_dropped(tmp_path):
    folder = write_sweep(tmp_path, [trial("a", status="running")])
    append(folder, '{"kind": "trial", "trial_id": "a", "stat')
    assert load(folder).trials["status"].tolist() == ["running"]


def test_a_last_line_that_lacks_only_its_newline_counts(tmp_path):
    folder = write_sweep(tmp_path, [trial("a", status="running")])
    append(folder, json.dumps(trial("a", status="lost")))
    assert load(folder).trials["status"].tolist() == ["lost"]


@pytest.mark.parametrize(
    "bad", ['{"kind": "tri', "[1, 2]", '{"kind": "trial"}', '{"status": "x"}', '{"a": 1}, {"b": 2}', "\x00"]
)
def test_a_malformed_line_elsewhere_is_named(tmp_path, bad):
    folder = write_sweep(tmp_path, [trial("a")])
    append(folder, bad + "\n" + json.dumps(trial("b")) + "\n")
    with pytest.raises(ResultsError, match=r"-7-1\.jsonl:2: must be a record of the journal, got ") as error:
        load(folder)
    assert "\n" not in str(error.value)


REPORTS = [
    report("a", 1, val_accuracy=1, val_f1=None, train_s=3, learning_rate=0.1 + 0.2),
    report("a", 2, val_accuracy=0.1, val_loss=math.inf, train_s=2.0),
    report("b", 2**60 + 1, val_accuracy=None, mood="good", best_val_f1=2),
    report("b", None, val_accuracy=-0.0, mood=3, epoch=1),
    {"kind": "report", "trial_id": "never started"},
]


@pytest.mark.parametrize("block_bytes", [50, 1 << 20])
def test_reports_are_read_alike_by_column_and_one_by_one(tmp_path, monkeypatch, block_bytes):
    """What sets a line's kind last is read one by one, as are all of a file that has such a line."""
    monkeypatch.setattr(analysis.journal, "BLOCK_BYTES", block_bytes)
    trials = [trial("a"), trial("b")]
    reordered = [dict(reversed(record.items())) for record in REPORTS]
    by_column = load(write_sweep(tmp_path / "1", trials + REPORTS)).history
    one_by_one = load(write_sweep(tmp_path / "2", trials + reordered)).history
    assert len(by_column) == len(REPORTS)
    assert by_column["step"].tolist() == [1, 2, 2**60 + 1, pd.NA, pd.NA]
    assert by_column["val_accuracy"].tolist()[:2] == [1.0, 0.1]
    assert by_column["learning_rate"][0] == 0.1 + 0.2
    assert set(by_column) == set(HISTORY_COLUMNS) | {"val_accuracy", "val_f1"}
    pd.testing.assert_frame_equal(by_column, one_by_one)
    mixed = load(write_sweep(tmp_path / "3", trials + REPORTS[:2], reordered[2:])).history
    pd.testing.assert_frame_equal(by_column, mixed)


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ('{"kind": "report", "trial_id": "a", "step": 2.0}', 2),
        ('{"kind": "report", "trial_id": "a", "step": "2"}', 2),
        ('{"kind": "report", "trial_id": "a", "step": 1, "step": 2}', 2),
        ('{"kind": "report", "trial_id": "a", "step": 2, "val_loss": NaN}', 2),
        ('{"kind": "report", "trial_id": "a", "step": 2, "val_loss": 1e999}', 2),
        ('  {"kind": "report", "trial_id": "a", "step": 2}  ', 2),
    ],
)
def test_reports_in_unusual_forms_count(tmp_path, line, step):
    folder = write_sweep(tmp_path, [trial("a"), report("a", 1)])
    append(folder, line + "\n")
    assert load(folder).history["step"].tolist() == [1, step]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"kind": "report", "trial_id": "a"}{"kind": "report", "trial_id": "a"}',
            r":3: must be a record",
        ),
        ('{"kind": "report", "trial_id": "a"', r":3: must be a record"),
        ('{"kind": "report", "trial_id": null}', r":3: must be a record"),
        ('{"kind": "report", "step": 2}', r":3: must be a record"),
        ('{"kind": "report", "trial_id": 7}', r":3: must be a record"),
        ('{"kind": "report", "trial_id": "a", "step": 2.5}', "column step: must hold values of Int64"),
        (
            '{"kind": "report", "trial_id": "a", "step": 99999999999999999999}',
            "column step: must hold values of Int64",
        ),
        (
            '{"kind": "report", "trial_id": "a", "val_loss": "low"}',
            "column val_loss: must hold values of float64",
        ),
        ('{"kind": "report", "trial_id": "a", "val_f1": "low"}', "column val_f1: must hold values of float64"),
        (
            '{"kind": "report", "trial_id": "a", "val_f1": "2026-11-23"}',
            "column val_f1: must hold values of float64",
        ),
        ('{"kind": "report", "trial_id": "a", "val_f1": [1]}', "column val_f1: must hold values of float64"),
        (
            '{"kind": "report", "trial_id": "a", "val_f1": ' + "[" * 20_000 + "]" * 20_000 + "}",
            r":3: must be a record",
        ),
    ],
)
def test_a_wrong_report_is_named(tmp_path, line, message):
    folder = write_sweep(tmp_path, [trial("a"), report("a", 1)])
    append(folder, line + "\n" + json.dumps(report("a", 3)) + "\n")
    with pytest.raises(ResultsError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "record", [report("a", 1, val_accuracy=[1, 2]), trial("a", train_s=[1, 2]), trial("a", val_loss=[1.0])]
)
def test_lists_in_place_of_numbers_are_refused(tmp_path, record):
    with pytest.raises(ResultsError, match=r"^column \w+: must hold values of float64 alone"):
        load(write_sweep(tmp_path, [record]))


def test_a_torn_report_is_dropped(tmp_path):
    folder = write_sweep(tmp_path, [trial("a"), report("a", 1)])
    append(folder, '{"kind": "report", "trial_id": "a", "st')
    assert load(folder).history["step"].tolist() == [1]
    append(folder, 'ep": 2}')
    assert load(folder).history["step"].tolist() == [1, 2]


@pytest.mark.parametrize("block_bytes", [50, 1 << 20])
def test_of_what_the_engine_writes_no_line_is_read_by_itself(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(analysis.journal, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(analysis.journal, "_read_each", lambda file: pytest.fail(f"{file} is read line by line"))
    reports = [report("a", step, val_accuracy=0.5) for step in range(20)]
    folder = write_sweep(tmp_path, [trial("a"), *reports, timing("c", 0, [arm("fp32", [1.0])]), trial("b")])
    assert load(folder).history["step"].tolist() == list(range(20))
    append(folder, '{"kind": "report", "trial_id": "a", "x": {}')  # a crash cut it short
    assert load(folder).history["step"].tolist() == list(range(20))


def test_of_many_blocks_the_wrong_line_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(analysis.journal, "BLOCK_BYTES", 50)
    folder = write_sweep(tmp_path, [trial("a"), *(report("a", step) for step in range(100))])
    append(folder, '{"kind": "report", "trial_id": 7}\n' + json.dumps(trial("a")) + "\n")
    append(folder, "".join(json.dumps(report("a", step)) + "\n" for step in range(100, 200)))
    with pytest.raises(ResultsError, match=r"-7-1\.jsonl:102: must be a record"):
        load(folder)


def test_unknown_kinds_keys_and_blank_lines_are_ignored(tmp_path):
    folder = write_sweep(tmp_path, [{"kind": "weather", "rain": True}, trial("a", mood="good")])
    append(folder, "\n\n")
    trials = load(folder).trials
    assert trials["trial_id"].tolist() == ["a"]
    assert "mood" not in trials


def test_hyperparameters_of_any_type(tmp_path):
    configs = [
        {"i": 1, "n": 1, "s": "x", "b": True, "mixed": 1, "big": 2**70},
        {"i": 2, "n": 0.5, "s": "y", "b": False, "mixed": "auto"},
    ]
    rows = [trial(str(n), config=config) for n, config in enumerate(configs)] + [trial("none")]
    trials = load(write_sweep(tmp_path, rows, space={"n": {}, "never": {}})).trials
    dtypes = {name.removeprefix("config/"): str(trials[name].dtype) for name in trials if name.startswith("config/")}
    assert list(dtypes) == ["n", "never", "i", "s", "b", "mixed", "big"]
    assert dtypes == {
        "n": "float64",
        "never": "object",
        "i": "Int64",
        "s": "string",
        "b": "boolean",
        "mixed": "object",
        "big": "object",
    }
    assert trials["config/mixed"].tolist() == [1, "auto", None]
    assert trials["config/i"].tolist() == [1, 2, pd.NA]


def test_every_metric_is_a_column_behind_val_loss(tmp_path):
    rows = [trial("a", val_f1=1, val_accuracy=0.5, best_val_accuracy=0.6), report("a", 1, val_f1=None, val_accuracy=1)]
    results = load(write_sweep(tmp_path, rows))
    at = list(results.trials).index("val_loss")
    assert list(results.trials)[at : at + 5] == [
        "val_loss",
        "val_accuracy",
        "val_f1",
        "best_val_accuracy",
        "loss_scale",
    ]
    assert results.trials["val_f1"].dtype == results.history["val_f1"].dtype == "float64"


def test_an_empty_sweep_has_every_column_and_type(tmp_path):
    empty = load(write_sweep(tmp_path / "empty"))
    for frame, columns in (
        (empty.trials, TRIAL_COLUMNS),
        (empty.history, HISTORY_COLUMNS),
        (empty.timings, TIMING_COLUMNS),
    ):
        assert len(frame) == 0
        assert {name: str(frame[name].dtype) for name in columns} == columns
    assert {name: str(dtype) for name, dtype in empty.verdicts.dtypes.items()} == VERDICT_COLUMNS
    assert "best_val_accuracy" in empty.trials
    full = load(write_sweep(tmp_path / "full", [trial("a"), report("a", 1), timing("c", 0, [arm("fp32", [1.0])])]))
    for name in ("trials", "history", "timings"):
        assert getattr(full, name).dtypes.to_dict() == getattr(empty, name).dtypes.to_dict()


def test_timings_have_a_row_per_arm(tmp_path):
    blocks = [
        timing("c", 0, [arm("fp32", [10.0, 30.0, 20.0]), arm("bf16-mixed", [5.0, 5.0, 8.0])], contended=None),
        timing("c", 1, [], status="out_of_memory", status_reason="needs 90 GB"),
        timing("c", 2, [arm("fp32", [9.0])], status="errored"),
        timing("c", 2, [arm("fp32", [7.0])]),
    ]
    timings = load(write_sweep(tmp_path, blocks)).timings
    assert timings["seed"].tolist() == [0, 0, 1, 2]
    assert timings["step_ms"].tolist()[:2] == [20.0, 5.0]
    assert timings["samples_per_s"].tolist()[:2] == [3200.0, 12800.0]
    assert timings["window_ms"][1] == [5.0, 5.0, 8.0]
    assert timings["contended"].isna().tolist() == [True, True, False, False]
    assert timings["precision"].isna().tolist() == [False, False, True, False]
    assert np.isnan(timings["step_ms"][2])
    assert timings["step_ms"][3] == 7.0


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "no such folder"),
        (lambda path: path.mkdir(), "it is empty"),
        (lambda path: path.write_text("x"), "it is no folder"),
        (lambda path: (path.mkdir(), (path / "x").touch()), "it has no sweep.json"),
        (lambda path: write_sweep(path / "digits-9"), r"it holds 1 of them.*pass one, such as .*digits-9"),
        (lambda path: write_sweep(path, schema=2), r"sweep.json, schema: must be at most 1, got 2; .*upgrade"),
        (lambda path: write_sweep(path, schema="1"), "schema: must be a whole number from 1, got '1'"),
        (lambda path: write_sweep(path, mode="best"), "mode: must be max or min, got 'best'"),
        (lambda path: write_sweep(path, metric=None), "metric: must be a name, got None"),
        (lambda path: write_sweep(path, baselines="fp32"), "baselines: must be a list of names, got 'fp32'"),
        (lambda path: write_sweep(path, [trial("a", config=[1])]), r":1: must be a record"),
        (
            lambda path: write_sweep(path, [timing("c", 0, [arm("fp32", ["x"])])]),
            r":1: must be a record",
        ),
        (lambda path: write_sweep(path, [trial("a", steps=2**70)]), "column steps: must hold values of Int64"),
        (lambda path: write_sweep(path, precisions=[3]), "precisions: must be a list of names"),
        (lambda path: write_sweep(path, run_name=3), "run_name: must be a name"),
        (lambda path: write_sweep(path, space=3), "space: must be an object"),
        (lambda path: write_sweep(path, confirm=3), "confirm: must be an object"),
        (lambda path: write_sweep(path, confirm={"margin": "x"}), "confirm: must be an object with numbers"),
        (lambda path: (path / "sweep.json").mkdir(parents=True), "must be a readable file"),
        (lambda path: (write_sweep(path) / "journal" / "a-0.jsonl").mkdir(), "must be a readable file"),
        (lambda path: (write_sweep(path) / "sweep.json").write_text("{"), "must be valid JSON"),
        (lambda path: (write_sweep(path) / "sweep.json").write_text("[]"), "must be a JSON object, got 'list'"),
        (lambda path: write_sweep(path, [trial("a", steps="many")]), "column steps: must hold values of Int64"),
        (
            lambda path: write_sweep(path, [trial("a", val_loss="low")]),
            "column val_loss: must hold values of float64",
        ),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, prepare, message):
    prepare(tmp_path / "run")
    with pytest.raises(ResultsError, match=message) as error:
        load(tmp_path / "run")
    assert "\n" not in str(error.value)
    assert ", got " in str(error.value)
    assert "; " in str(error.value)
    assert isinstance(error.value, ValueError)


def test_nothing_and_remote_folders_are_refused():
    with pytest.raises(ResultsError, match="results: must name at least one folder"):
        load()
    with pytest.raises(
        ResultsError, match=r"results: must be the URL of a sweep that can be read .*'nosuch://bucket/run'"
    ):
        load("nosuch://bucket/run")


def test_several_sweeps_are_stacked(tmp_path):
    one = write_sweep(tmp_path / "1", [trial("t", config={"x": 1}), report("t", 1)])
    two = write_sweep(
        tmp_path / "2", [trial("t", config={"x": 0.5}), report("t", 1)], run_name="other", metric="val_f1"
    )
    results = load(one, two)
    assert results.trials["sweep"].tolist() == results.history["sweep"].tolist() == ["digits-1", "other"]
    assert results.trials["config/x"].tolist() == [1.0, 0.5]
    assert {"best_val_accuracy", "best_val_f1"} <= set(results.trials)
    with pytest.raises(ResultsError, match="must be of runs with different names"):
        load(one, one)


def test_examples_are_read_when_asked_for(tmp_path):
    folder = write_sweep(tmp_path, [trial("t")])
    write_examples(folder, "t", [1, 0, 1])
    results = load(folder)
    examples = results.examples("t")
    assert examples is not None
    assert examples.tolist() == [1.0, 0.0, 1.0]
    assert results.examples("u") is None
    (folder / "examples" / "t.npy").write_bytes(b"torn")
    with pytest.raises(ResultsError, match=r"t\.npy: must be a NumPy array"):
        results.examples("t")
    with pytest.raises(ResultsError, match="sweep: must be among the loaded ones, got 'x'"):
        results.examples("t", "x")


def test_the_schema_imports_nothing_heavy():
    heavy = "('numpy', 'pandas', 'scipy', 'torch', 'ray')"
    code = f"import sys, analysis.schema; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
