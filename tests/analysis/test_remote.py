"""Results in an object store, which is a folder here."""

import io
import os
import shutil
from pathlib import Path

import pytest
from journals import arm, run, timing, trial, write_examples, write_sweep
from rich.console import Console

from analysis import ResultsError, load
from analysis.remote import shown
from analysis.tables import print_report


@pytest.mark.parametrize("name", ["my run", "größe", "exp#1", "[x]"])
def test_a_run_of_any_name_is_read(tmp_path: Path, name: str):
    write_sweep(tmp_path / name, [trial("a", stage="search")])
    assert load(f"file://{tmp_path}/{name}").trials["trial_id"].tolist() == ["a"]


def test_another_run_of_a_name_is_not_mixed_with_the_one_before(tmp_path: Path):
    folder, url = tmp_path / "run", f"file://{tmp_path}/run"
    write_sweep(folder, [trial("a", stage="search")], [trial("b", stage="search")])
    write_examples(folder, "c", [1.0])
    assert len(load(url).trials) == 2
    shutil.rmtree(folder)
    with pytest.raises(ResultsError, match="must be the URL of a sweep"):
        load(url)
    write_sweep(folder, [trial("c", stage="search")])
    write_examples(folder, "c", [2.0])
    os.utime(folder / "examples" / "c.npy", (1, 1))
    results = load(url)
    assert results.trials["trial_id"].tolist() == ["c"]
    assert results.examples("c").tolist() == [2.0]


def test_a_report_shows_no_keys_of_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert shown("s3://key:hidden@bucket/a?secret=b") == "s3://bucket/a"
    assert shown("runs/what?") == "runs/what?"
    arms = [arm("fp32", [2.0] * 8), arm("fp32", [2.0] * 8, is_copy=True), arm("bf16-mixed", [1.0] * 8)]
    runs = [run("a", 1, name, 0.9, checkpoint=f"checkpoints/{name}/weights.pt") for name in ("fp32", "bf16-mixed")]
    write_sweep(tmp_path / "run", [*runs, timing("a", 1, arms)])
    console = Console(file=io.StringIO(), width=200)
    print_report(load(f"file://{tmp_path}/run?hidden=key"), console)
    text = console.file.getvalue()
    assert f"file://{tmp_path}/run/checkpoints/" in text
    assert "hidden" not in text
