"""Fields of a declaration: what ``--help`` and the documentation say of each is written once, beside it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Any, TypeVar

TRIED, BUDGET, CONFIRM = "what is tried", "budget", "confirm"
OF_TASK, HYPERPARAMETERS = "hyperparameters of the task", "hyperparameters of the training loop"
RESOURCES, WHERE = "resources", "where and how"

_Declaration = TypeVar("_Declaration")


def about(group: str, help: str, metavar: str = "") -> dict[str, str]:
    """What ``--help`` and the class's documentation say about a field."""
    return {"group": group, "help": help, "metavar": metavar}


def option(default: object, group: str, help: str, metavar: str = "") -> Any:
    """A field with a default, and what :func:`about` says of it."""
    return field(default=default, metadata=about(group, help, metavar))


def documented(cls: type[_Declaration]) -> type[_Declaration]:
    """Appends the fields' help texts to the class's docstring, so that each is written once."""
    entries = dataclasses.fields(cls)  # type: ignore[arg-type]
    arguments = "\n".join(f"    {entry.name}: {entry.metadata['help']}." for entry in entries)
    cls.__doc__ = f"{cls.__doc__}\n\nArgs:\n{arguments}\n\nRaises:\n    SweepError: a field is out of its range."
    return cls


def set_fields(declaration: object, values: Mapping[str, object]) -> None:
    """Replaces fields of a frozen dataclass by their normalized values."""
    for name, value in values.items():
        object.__setattr__(declaration, name, value)
