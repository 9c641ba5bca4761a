"""Flags for the hyperparameters that the training loop reads, where a sweep has a single value of each."""

import argparse
from collections.abc import Callable
from typing import Any

from sweeps.search.checks import SweepError
from sweeps.search.domains import Scalar
from sweeps.search.space import parse_scalar
from trainables.hyperparameters import RESERVED, Hyperparameters, broken_rule

HELP = {
    "learning_rate": ("peak of the schedule", "X"),
    "weight_decay": ("weight decay of the optimizer", "X"),
    "batch_size": ("examples of an optimizer step", "N"),
    "accumulate_steps": ("micro-batches that a step's examples are split into, to save memory", "N"),
    "max_grad_norm": ("norm that gradients are clipped to; else they are left", "X"),
    "warmup_frac": ("share of all steps in which the learning rate rises, 0 to 1", "X"),
    "lr_schedule": ("what the learning rate does then", "constant|linear|cosine"),
    "optimizer": ("what takes the steps; sgd has a momentum of 0.9", "adamw|adam|sgd"),
}
"""What ``--help`` says of each hyperparameter that the loop reads, and of its value."""


def flag_of(name: str) -> str:
    """The flag of a field or hyperparameter, e.g. ``--learning-rate``."""
    return "--" + name.replace("_", "-")


def add_hyperparameters(group: Any) -> None:
    """Adds a flag for each hyperparameter that the loop reads; what is given becomes part of the space.

    Args:
        group: of a parser.
    """
    for name in RESERVED:
        about, metavar = HELP[name]
        default = getattr(Hyperparameters, name)
        shown = about if default is None else f"{about} (default: {default})"
        group.add_argument(
            flag_of(name), dest="space", action="append", type=_reader(name), metavar=metavar, help=shown
        )


def _reader(name: str) -> Callable[[str], tuple[str, Scalar]]:
    def read(written: str) -> tuple[str, Scalar]:
        try:
            value = parse_scalar(written)
        except SweepError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        condition = broken_rule(name, value)
        if condition is not None:
            raise argparse.ArgumentTypeError(f"must be {condition}, got {written!r}; give one value, or leave it out")
        return name, value

    return read
