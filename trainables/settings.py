"""What a task says of a hyperparameter of its own, so that it can be a flag and be refused early. Torch-free."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One hyperparameter of a task.

    Args:
        about: what it is, in a clause for ``--help``.
        metavar: what stands for its value there.
        condition: what a value must be.
        holds: whether a value is that.
        is_required: whether a configuration must have it.
    """

    about: str
    metavar: str
    condition: str
    holds: Callable[[Any], bool]
    is_required: bool = False


def is_text(value: Any) -> bool:
    """Whether a value is a text that is not empty."""
    return isinstance(value, str) and bool(value.strip())


def is_whole(value: Any, at_least: int) -> bool:
    """Whether a value is a whole number, and no boolean, within its bound."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
