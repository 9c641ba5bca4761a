"""A search that ends runs early, fed by worker processes of its own, and a confirmation that does not."""

from pathlib import Path

import pytest

from analysis import load
from sweeps import Confirm, Sweep, choice, run
from sweeps.engine.confirm import Confirmation

TASK = """
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset
from trainables import Task

class Items(Dataset):
    def __init__(self, data):
        self.data = data
    def __len__(self):
        return len(self.data)
    def __getitem__(self, index):
        return self.data[index]

def build(config):
    # Its metric rises by a step a report, or stays
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(inputs, (inputs.sum(1) > 0).long())
    seen = []
    def level(outputs, batch):
        seen.append(config["rise"])
        return torch.full((len(batch[0]),), sum(seen))
    return Task(nn.Linear(8, 2), Items(data), TensorDataset(*data[:16]), metrics={"level": level}, num_workers=1)
"""


@pytest.mark.ray
def test_runs_of_the_search_end_early_and_those_of_confirm_do_not(
    ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Confirmation, "time_blocks", lambda *_: None)  # takes long, and has no part in this
    (tmp_path / "task.py").write_text(TASK)
    sweep = Sweep(
        name="early",
        task=f"{tmp_path}/task.py:build",
        space={"rise": choice([0.25, 0.0]), "batch_size": 16},
        precisions=("fp32", "bf16-mixed"),
        metric="val_level",
        mode="max",
        num_trials=4,
        max_steps=24,
        report_every_steps=4,
        scheduler="fifo",
        searcher="grid",
        stop_at={"val_level": 0.75},
        patience=4,
        confirm=Confirm(num_seeds=1),
        cpus_per_trial=2,  # one worker to start
        route="default",
        storage=str(tmp_path),
        run_name="early",
    )
    run(sweep)
    trials = load(tmp_path / "early").trials
    assert set(trials["status"]) == {"completed"}
    search = trials[trials["stage"] == "search"].sort_values(["config/rise", "precision"])
    assert list(search["steps"]) == [20, 20, 12, 12]
    plateau, target = "val_level no better for 4 reports, by step 20", "val_level reached 0.75 by step 12"
    assert list(search["status_reason"]) == [plateau, plateau, target, target]
    confirm = trials[trials["stage"] == "confirm"]
    assert set(confirm["config/rise"]) == {0.25}
    assert list(confirm["steps"]) == [24, 24]
    assert confirm["status_reason"].isna().all()
    assert trials.loc[trials["stage"] != "probe", "data_wait_share"].between(0, 1).all()
    history = load(tmp_path / "early").history
    assert history["data_wait_share"].between(0, 1).all()
