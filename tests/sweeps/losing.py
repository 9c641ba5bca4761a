"""A sweep whose only node goes away again and again: python -m tests.sweeps.losing FOLDER.

Another comes each time. Prints, as JSON, how many nodes went in each stage.
"""

import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from sweeps import Confirm, Sweep
from trainables import Task

EPOCHS, NUM_STEPS, TIMES = 12, 4, 2
"""Epochs of a trial, steps of each, and nodes that go in each stage: more than one trial may lose by a crash."""


def declare(folder: Path) -> Sweep:
    return Sweep(
        name="losing",
        task=f"{__file__}:build",
        space={"batch_size": 16, "steps_file": str(folder / "steps")},
        precisions=("fp32", "bf16-mixed"),
        num_trials=2,
        max_epochs=EPOCHS,
        scheduler="fifo",
        checkpoint_every_s=0,
        route="default",
        confirm=Confirm(num_seeds=1),
        storage=str(folder),
        run_name="run",
    )


def build(config):
    inputs = torch.linspace(-1, 1, 64 * 4).reshape(64, 4).sin()
    data = TensorDataset(inputs, (inputs.sum(1) > 0).long())
    return Task(nn.Linear(4, 2), data, data, loss=Noted(Path(config["steps_file"])))


class Noted:
    """Takes a while for each training step, and notes it in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, outputs, batch):
        if torch.is_grad_enabled():
            time.sleep(0.1)
            with self._file.open("a") as file:
                file.write(f"{torch.initial_seed()} {torch.is_autocast_enabled('cpu')}\n")
        return nn.functional.cross_entropy(outputs, batch[-1])


class Losing(threading.Thread):
    """Takes the node away once trials have got further, or timing has begun, and adds another."""

    def __init__(self, nodes: Any, folder: Path) -> None:
        super().__init__(daemon=True)
        self._nodes, self._folder = nodes, folder
        self._node = nodes.add("node0", num_cpus=2)
        self._seen = 0
        self.lost: Counter[str] = Counter()

    def run(self) -> None:
        while True:
            stage, reports = self._look()
            if stage and self.lost[stage] < TIMES and (stage == "timing" or reports >= self._seen + 4):
                time.sleep(2 * (stage == "timing"))  # for it to have begun
                self._nodes.cluster.remove_node(self._node, allow_graceful=False)
                self.lost[stage] += 1
                self._seen = self._look()[1]
                self._node = self._nodes.add(f"node{self.lost.total()}", num_cpus=2)
            time.sleep(0.1)

    def _look(self) -> tuple[str, int]:
        files = (self._folder / "run" / "journal").glob("*.jsonl")
        rows = [json.loads(line) for file in files for line in file.read_text().split("\n")[:-1]]
        status = {row["trial_id"]: row["status"] for row in rows if row["kind"] == "trial" and "status" in row}
        begun = [name for name in status if name.startswith("search")]
        reports = sum(row["kind"] == "report" for row in rows)
        if any(name.startswith("confirm") for name in status):
            return "confirm", reports
        if len(begun) == 2 and all(status[name] != "running" for name in begun):
            return "timing", reports
        return "search" if begun else "", reports


def main(folder: Path) -> None:
    import pytest

    from sweeps import run
    from tests.brief_timing import time_briefly
    from tests.sweeps.nodes import Nodes, say

    time_briefly(pytest.MonkeyPatch())
    losing = Losing(Nodes(), folder)
    losing.start()
    run(declare(folder))
    say(**losing.lost)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
