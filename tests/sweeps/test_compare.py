"""``ampsweep compare`` as a user types it."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from analysis.comparison import Measured, comparison
from sweeps.engine.cli import ampsweep
from sweeps.engine.comparison_report import comparison_table
from trainables import throughput
from trainables.exported import load_exported, load_exported_task
from trainables.isolation import isolated
from trainables.ladder import LADDER

MODELS = """
import signal
import torch

class Hungry(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.empty(2**46)[0]  # 256 TiB

def model():
    print("a model that talks")
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

def interrupted(): signal.raise_signal(signal.SIGINT)

def hungry(): return torch.nn.Sequential(torch.nn.Flatten(), Hungry(64, 10))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digits model as ``ampsweep export`` writes it, after some steps of gradient descent."""
    folder = tmp_path_factory.mktemp("compare") / "exported"
    folder.mkdir()
    about = {"task": "trainables.tasks.digits:build", "config": {"width": 4}, "precision": "fp32", "seed": 2}
    (folder / "export.json").write_text(json.dumps(about))
    with isolated(LADDER["fp32"], 0, 1):
        task = load_exported_task(folder, trained=False)
        images, labels = task.train_set.tensors
        optimizer = torch.optim.Adam(task.model.parameters(), lr=0.01)
        for _ in range(10):
            torch.nn.functional.cross_entropy(task.model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.save(task.model.state_dict(), folder / "weights.pt")
    return folder


@pytest.fixture
def compare(
    tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """Runs the command beside an exported digits model and gives its JSON; short windows: no test asserts a speed."""
    monkeypatch.setattr(throughput, "MIN_WINDOW_MS", 1.0)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(MODELS)
    shutil.copytree(exported, tmp_path / "exported")

    def run(*words: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as ended:
            ampsweep(["compare", *words, "--num-threads", "1", "--rounds", "3", "--json"])
        captured = capsys.readouterr()
        assert ended.value.code == 0, captured.err
        found: dict[str, Any] = json.loads(captured.out)
        return found | {"rows": {row["figure"]: row for row in found["figures"]}}

    return run


def test_a_fine_tuned_model_against_what_it_was(compare: Callable[..., dict[str, Any]]) -> None:
    found = compare("exported", "initial")
    images, labels = load_exported_task(Path("exported")).val_set.tensors
    with torch.no_grad():
        logits = load_exported("exported")(images)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    accuracy = (logits.argmax(1) == labels).double().mean()
    rows = found["rows"]
    assert rows["loss"]["model"] == pytest.approx(float(loss), rel=1e-5)
    assert rows["accuracy"]["model"] == pytest.approx(float(accuracy))
    assert (rows["loss"]["says"], rows["accuracy"]["says"]) == ("lower", "higher")
    assert (rows["loss"]["num"], found["num_samples"]) == (len(labels), len(labels))
    assert rows["parameters"]["says"] == rows["bytes"]["says"] == "the same"
    assert rows["samples per second"]["num"] >= 3
    assert (found["model"]["effective_precision"], found["baseline"]["place"]) == ("fp32", "exported before training")


def test_a_model_against_itself_and_swapped(compare: Callable[..., dict[str, Any]]) -> None:
    same = compare("exported", "exported", "--num-samples", "100", "--seed", "3")["rows"]
    for figure in ("loss", "accuracy"):
        assert same[figure]["value"] == 0
        assert same[figure]["low"] <= 0 <= same[figure]["high"]
        assert same[figure]["says"] == "no clear difference"
    sample = ["--data", "trainables.tasks.digits:build", "--num-samples", "100"]
    one = compare("exported", "models.py:model", *sample, "--seed", "3")["rows"]
    swapped = compare("models.py:model", "exported", *sample, "--seed", "3")["rows"]
    for figure in ("loss", "accuracy"):
        a, b = one[figure], swapped[figure]
        assert (a["value"], a["low"], a["high"]) == pytest.approx((-b["value"], -b["high"], -b["low"]))
        assert a["num"] == 100
    other = compare("exported", "models.py:model", *sample, "--seed", "4")["rows"]
    assert other["loss"]["model"] != one["loss"]["model"]  # another seed draws other examples


def test_precisions_and_the_table(compare: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["exported", "exported", "--precision", "bf16-true", "--baseline-precision", "fp32", "--num-samples", "64"]
    found = compare(*words)
    assert (found["model"]["effective_precision"], found["baseline"]["effective_precision"]) == ("bf16-true", "fp32")
    assert found["rows"]["bytes"]["value"] == 0.5
    assert 0 < abs(found["rows"]["loss"]["value"]) < 0.05
    with pytest.raises(SystemExit):
        ampsweep(["compare", *words, "--num-threads", "1", "--rounds", "2"])
    printed = capsys.readouterr().out
    assert re.search(r"MODEL  exported, bf16-true\n", printed)
    assert re.search(r"64 examples of validation set of exported, batches of 32\n", printed)
    assert re.search(r"\nbytes +[\d,]+ +[\d,]+ +0.5x +lower", printed)
    for figure in ("loss", "accuracy", "samples per second", "parameters"):
        assert re.search(rf"\n{figure} ", printed), printed
    assert max(map(len, printed.splitlines())) <= 80


def test_huge_figures_fit_80_columns() -> None:
    """The perplexity of a diverged model, and the size of a large one."""
    rng = np.random.default_rng(0)
    sizes = {"parameters": 7_241_732_096, "bytes": 28_966_928_384}
    loss = 30 + rng.random((2, 50)) * [[1.0], [0.1]]
    one, other = (
        Measured({"loss": (values * 7, np.full(50, 7.0))}, [1.2e6, 1.3e6, 1.1e6], {}, sizes, True) for values in loss
    )
    table = comparison(one, other)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison_table(table))
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    perplexity = next(row for row in table.to_dict("records") if row["figure"] == "perplexity")
    assert perplexity["model"] > 1e13
    for shown in (f"perplexity {perplexity['model']:.4g} ", "parameters 7.242e+09 7.242e+09", "second 1,1"):
        assert shown in " ".join(text.split())


def test_running_out_of_memory_ends_with_1(
    compare: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        ampsweep(["compare", "exported", "models.py:hungry", "--num-threads", "1"])
    assert ended.value.code == 1
    assert re.fullmatch(
        r"error: --batch-size: must fit into memory, got 32 \(.*\); lower it\n", capsys.readouterr().err
    )


def test_an_interrupted_comparison_does_not_claim_to_have_kept_anything(
    compare: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        ampsweep(["compare", "models.py:interrupted", "exported"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: interrupted\n"


def test_help_imports_no_torch() -> None:
    program = (
        "import sys\n"
        "from sweeps.engine.cli import ampsweep\n"
        "try: ampsweep(['compare', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'ray', 'pandas'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    for flag in ("--data", "--num-samples", "--baseline-precision", "input_ids", "initial"):
        assert flag in done.stdout
