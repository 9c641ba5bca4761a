"""Digits: scikit-learn's 1,797 scanned digits and a small convolutional network; seconds a run on one core."""

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from trainables.task import Task

VAL_SHARE = 0.2


def build(config: Mapping[str, Any]) -> Task:
    """The digits task.

    Args:
        config: ``width``: channels of both convolutions, default 32.
    """
    (train_images, train_labels), (val_images, val_labels) = split(*read_digits())
    return Task(
        model=make_model(int(config.get("width", 32))),
        train_set=TensorDataset(train_images, train_labels),
        val_set=TensorDataset(val_images, val_labels),
    )


def make_model(width: int) -> nn.Module:
    """Images (B, 1, 8, 8) to logits (B, 10): two 3x3 convolutions of ``width`` channels, two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(width * 16, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


@functools.cache
def read_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (1797, 1, 8, 8) in FP32 from 0 to 1, and labels (1797,), from the file that scikit-learn carries.

    Importing scikit-learn for its one file would take longer than a short trial.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the digits task needs scikit-learn; pip install 'ampsweep[digits]'")
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",")
    images = torch.tensor(table[:, :-1] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return images, torch.tensor(table[:, -1], dtype=torch.int64)


def split(
    images: torch.Tensor, labels: torch.Tensor
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """A fixed training and validation set, every class split in the same proportion."""
    generator = torch.Generator().manual_seed(0)
    val: list[torch.Tensor] = []
    train: list[torch.Tensor] = []
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        num_val = round(VAL_SHARE * len(members))
        val.append(members[:num_val])
        train.append(members[num_val:])
    in_train, in_val = torch.cat(train).sort().values, torch.cat(val).sort().values
    return (images[in_train], labels[in_train]), (images[in_val], labels[in_val])
