"""Models from other trainers, from the command line or a call to a verdict: a Lightning module, and a function."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from analysis import load
from analysis.shortfall import shortfall
from sweeps import Confirm, Sweep, SweepError, loguniform, run
from sweeps.engine.cli import ampsweep
from sweeps.engine.export import write_export
from sweeps.engine.metric import metric_and_mode
from trainables import load_exported
from trainables.loading import TaskError

LIGHTNING = """
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trainables.tasks.digits import read_digits, split

class Digits(LightningModule):
    def __init__(self, width=16, lr=1e-2):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])
    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("val_accuracy", (logits.argmax(1) == batch[1]).float().mean())
        self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]))
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
    def train_dataloader(self):
        return DataLoader(TensorDataset(*split(*read_digits())[0]), batch_size=64, shuffle=True)
    def val_dataloader(self):
        return DataLoader(TensorDataset(*split(*read_digits())[1]), batch_size=64)
"""

README = (Path(__file__).parents[2] / "README.md").read_text()
FUNCTION = next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if block.startswith("# my_loop.py"))


def script(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text)
    return path


def check(folder: Path, seeds: int) -> pd.DataFrame:
    """Every trial has a row that ended, and what is confirmed is comparable; the rows of the trials."""
    results = load(folder)
    trials = results.trials
    assert set(trials["status"]) <= {"completed", "pruned"}
    assert (trials["effective_precision"] == trials["precision"]).all()
    confirmed = trials[trials["stage"] == "confirm"]
    assert dict(confirmed.groupby("precision").size()) == {"fp32": seeds, "bf16-mixed": seeds}
    for _, block in confirmed.groupby("block_id"):
        assert block["init_digest"].nunique() == block["data_digest"].nunique() == 1
    timed = results.timings
    assert set(timed["status"]) == {"completed"}
    for _, block in timed.groupby("block_id"):
        assert block["init_digest"].nunique() == block["data_digest"].nunique() == 1
    assert set(results.verdicts["metric"]) == {"val_accuracy"}
    reasons = results.verdicts.loc[results.verdicts["verdict"] == "INVALID", "reason"]
    assert reasons.str.contains("shared their device|the timing is biased").all()  # as this machine may be
    assert shortfall(results) is None
    return trials


@pytest.mark.ray
def test_a_lightning_module_comes_to_a_verdict_and_is_exported(
    ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", f"{script(tmp_path, LIGHTNING)}:Digits", "--space", "lr=0.01", "--space", "width=8"]
    words += ["--num-trials", "0", "--max-epochs", "2", "--precisions", "fp32,bf16-mixed", "--run-name", "r"]
    words += ["--confirm-num-seeds", "1", "--confirm-margin", "0.5", "--cpus-per-trial", "1.5"]
    with pytest.raises(SystemExit) as ended:
        ampsweep(words)
    assert ended.value.code == 0
    assert "bf16-mixed against fp32" in capsys.readouterr().out
    trials = check(tmp_path / "runs" / "r", seeds=1)
    assert set(trials["config/width"].dropna()) == {8}
    best = write_export("runs/r", tmp_path / "exported")
    model = load_exported(tmp_path / "exported")
    assert type(model).__name__ == "Digits"
    assert model.hparams.width == best.config["width"]
    with torch.no_grad():
        batch = next(iter(model.val_dataloader()))
        assert (model(batch[0]).argmax(1) == batch[1]).float().mean() > 0.5


@pytest.mark.ray
def test_a_function_is_searched_and_comes_to_a_verdict(
    ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(FUNCTION, namespace)
    sweep = Sweep(
        name="own",
        task=namespace["train"],  # as a notebook has it: pickled
        space={"lr": loguniform(1e-2, 3e-2), "hidden": 16},
        precisions=("fp32", "bf16-mixed"),
        metric="val_accuracy",
        num_trials=2,
        max_epochs=2,
        confirm=Confirm(num_seeds=1, margin=0.5),
        cpus_per_trial=1.5,
        storage=str(tmp_path),
        run_name="r",
    )
    results = run(sweep)
    trials = check(tmp_path / "r", seeds=1)
    assert dict(trials.groupby("stage").size()) == {"probe": 2, "search": 2, "confirm": 2}
    searched = trials[trials["stage"] == "search"]
    assert set(searched["epochs"]) <= {1, 2}
    assert set(results.history["epoch"]) == {1, 2}
    assert trials.loc[trials["stage"] == "confirm", "val_accuracy"].min() > 0.5
    files = list((tmp_path / "r" / "examples").glob("*.npy"))
    assert len(files) == 2
    write_export(str(tmp_path / "r"), tmp_path / "exported")
    with pytest.raises(TaskError, match="a function that trains by itself; make the model as the function does"):
        load_exported(tmp_path / "exported")


def test_a_class_of_lightning_s_is_a_task_whatever_its_arguments() -> None:
    namespace: dict[str, Any] = {"__name__": "mine"}
    exec(LIGHTNING.replace("width=16, lr=1e-2", "width, lr"), namespace)
    assert Sweep(name="s", task=namespace["Digits"], space={}).to_json()["task"] == "mine.Digits"


def test_a_metric_that_only_reports_tell_is_taken_by_its_column() -> None:
    def declare(**fields: Any) -> Sweep:
        return Sweep(name="s", task="m:f", space={}, **fields)

    assert metric_and_mode(declare(metric="val_f1"), None) == ("val_f1", "max")
    assert metric_and_mode(declare(), ["val_acc"]) == ("val_acc", "max")  # as Lightning modules often call it
    assert metric_and_mode(declare(), None) == ("val_loss", "min")
    with pytest.raises(SweepError, match="metric: must be a column of reports, which begin with val_, got 'f1'; write"):
        metric_and_mode(declare(metric="f1"), None)
    with pytest.raises(SweepError, match="metric"):
        metric_and_mode(declare(metric="val_f1"), [])
