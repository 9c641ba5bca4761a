"""Flags for hyperparameters: those that the training loop reads, and those of a script's own task."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from sweeps.search.checks import SweepError, refuse
from sweeps.search.domains import Domain, Scalar
from sweeps.search.hyperparameters import telling_values
from sweeps.search.space import parse_domain, parse_scalar
from trainables.hyperparameters import RESERVED, Hyperparameters, broken_rule
from trainables.settings import Setting

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


def add_hyperparameters(group: Any, takes_domains: bool = False) -> None:
    """Adds a flag for each hyperparameter that the loop reads; what is given becomes part of the space.

    Args:
        group: of a parser.
        takes_domains: whether a flag takes a domain, as ``--space`` does, or one value alone.
    """
    for name in RESERVED:
        about, metavar = HELP[name]
        default = getattr(Hyperparameters, name)
        shown = about if default is None else f"{about} (default: {default})"
        read = _domain_reader(name) if takes_domains else _reader(name)
        group.add_argument(flag_of(name), dest="space", action="append", type=read, metavar=metavar, help=shown)


def add_settings(group: Any, settings: Mapping[str, Setting]) -> None:
    """Adds a flag for each hyperparameter of a task, which takes a constant or a domain, as ``--space`` does.

    Args:
        group: of a parser.
        settings: by name.
    """
    for name, setting in settings.items():
        is_switch = setting.holds(True)  # a flag alone then means true
        group.add_argument(
            flag_of(name),
            dest="space",
            action="append",
            type=_domain_reader(name),
            metavar=setting.metavar,
            help=setting.about.replace("%", "%%"),
            **({"nargs": "?", "const": "true"} if is_switch else {}),
        )


def check_settings(space: Mapping[str, Domain | Scalar], settings: Mapping[str, Setting], needs_all: bool) -> None:
    """Refuses a space with values that the task cannot use.

    Args:
        space: of the sweep.
        settings: the task's hyperparameters by name.
        needs_all: whether those that a configuration must have must be in the space.

    Raises:
        SweepError: one line that names the flag.
    """
    for name, setting in settings.items():
        if name not in space:
            if setting.is_required and needs_all:
                raise SweepError(f"{flag_of(name)}: must be given, got nothing; give {setting.about}")
            continue
        for value in telling_values(space[name]):
            if not setting.holds(value):
                refuse(flag_of(name), f"must be {setting.condition}", value, "see --help")


def _domain_reader(name: str) -> Callable[[str], tuple[str, Domain | Scalar]]:
    def read(written: str) -> tuple[str, Domain | Scalar]:
        try:
            return name, parse_domain(written)
        except SweepError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


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
