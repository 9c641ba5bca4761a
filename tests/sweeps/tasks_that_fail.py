"""A task that goes wrong in the way its configuration names; shipped to workers as users' files are."""

import os
import signal
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from trainables import Task


def build(config):
    fault = config.get("fault", "none")
    if fault == "build":
        raise ValueError("planted in build")
    if fault == "memory":
        torch.empty(2**46)  # 256 TiB
    inputs = torch.linspace(-1, 1, 256 * 8).reshape(256, 8).sin()
    labels = (inputs.sum(1) > 0).long()
    data = TensorDataset(inputs, labels)
    return Task(nn.Linear(8, 2), data, data, loss=Loss(fault, config.get("marker", "")))


class Loss:
    def __init__(self, fault, marker):
        self.fault, self.calls, self.marker = fault, 0, Path(marker)

    def __call__(self, outputs, batch):
        self.calls += 1
        if self.fault == "raise" and self.calls > 3:
            raise RuntimeError("planted in the fourth call")
        if self.fault == "kill" and self.calls > 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "kill in bf16" and torch.is_autocast_enabled("cpu"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "kill once in bf16" and torch.is_autocast_enabled("cpu"):
            self.kill_unless_marked()
        confirming, in_second_epoch = torch.initial_seed() >= 2**30, self.calls > 9
        if self.fault == "raise in confirm" and confirming:
            raise RuntimeError("planted in confirm")
        if self.fault == "kill in confirm" and confirming and in_second_epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "kill once" and confirming == ("confirm" in self.marker.name) and in_second_epoch:
            self.kill_unless_marked()
        loss = nn.functional.cross_entropy(outputs, batch[-1])
        return loss * float("nan") if self.fault == "diverge" and self.calls > 3 else loss

    def kill_unless_marked(self):
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
