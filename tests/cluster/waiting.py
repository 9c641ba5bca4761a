"""A task whose steps mostly wait, so that many trials run at once on few real processors."""

import time

import torch
from torch import nn
from torch.utils.data import TensorDataset

from trainables import Task

STEP_S = 0.1
"""Seconds of a step, where the configuration does not say."""


def build(config):
    inputs = torch.linspace(-1, 1, 64 * 4).reshape(64, 4).sin()
    data = TensorDataset(inputs, (inputs.sum(1) > 0).long())
    step_s = config.get("step_s", STEP_S)

    def wait_and_compare(outputs, batch):
        if torch.is_grad_enabled():
            time.sleep(step_s)
        return nn.functional.cross_entropy(outputs, batch[-1])

    return Task(nn.Linear(4, 2), data, data, loss=wait_and_compare)
