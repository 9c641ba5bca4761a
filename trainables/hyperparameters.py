"""The hyperparameters that the loop itself reads, and their valid values; torch-free, so that spaces can be checked."""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Hyperparameters:
    """The hyperparameters that the loop itself reads; all others of a configuration are the task's.

    Args:
        learning_rate: the peak of the schedule, at least 0.
        weight_decay: at least 0.
        batch_size: examples per optimizer step.
        accumulate_steps: micro-batches that an optimizer step's batch is split into, to save memory; divides
            ``batch_size``.
        max_grad_norm: gradients are clipped to this norm; ``None`` leaves them.
        warmup_frac: share of all steps in which the learning rate rises linearly, 0 to 1.
        lr_schedule: ``"constant"``, ``"linear"`` or ``"cosine"``: what it does after the warm-up.
        optimizer: ``"adamw"``, ``"adam"`` or ``"sgd"`` (momentum 0.9).

    Raises:
        ValueError: a value is not valid, or the accumulation does not divide the batch.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 64
    accumulate_steps: int = 1
    max_grad_norm: float | None = None
    warmup_frac: float = 0.0
    lr_schedule: str = "constant"
    optimizer: str = "adamw"

    def __post_init__(self) -> None:
        for name in RESERVED:
            condition = broken_rule(name, getattr(self, name))
            if condition is not None:
                raise ValueError(f"{name} must be {condition}, got {getattr(self, name)!r}")
        if self.batch_size % self.accumulate_steps:
            raise ValueError(
                f"accumulate_steps must divide batch_size ({self.batch_size}), got {self.accumulate_steps!r}"
            )

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Hyperparameters":
        """Those of a configuration, with defaults for the ones it leaves out."""
        return cls(**{name: config[name] for name in RESERVED if name in config})

    def steps_per_epoch(self, num_items: int) -> int:
        """Optimizer steps of a pass over so many items, an incomplete last batch of which is dropped."""
        return num_items // min(self.batch_size, num_items)


RESERVED = tuple(Hyperparameters.__dataclass_fields__)
"""Names of the hyperparameters that the loop itself reads."""

_LR_SCHEDULES = ("constant", "linear", "cosine")
_OPTIMIZERS = ("adamw", "adam", "sgd")


def broken_rule(name: str, value: Any) -> str | None:
    """What a value must be but is not, e.g. ``"a whole number of at least 1"``; ``None`` where it is valid.

    Args:
        name: of the hyperparameter; only those that the loop itself reads have rules.
        value: to be judged by itself, whatever the others are.
    """
    if name not in _RULES:
        return None
    holds, condition = _RULES[name]
    return None if holds(value) else condition


def _is_number(value: Any, low: float = 0.0, high: float = sys.float_info.max) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and low <= value <= high  # NaN is not


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "learning_rate": (_is_number, "a finite number of at least 0"),
    "weight_decay": (_is_number, "a finite number of at least 0"),
    "batch_size": (_is_count, "a whole number of at least 1"),
    "accumulate_steps": (_is_count, "a whole number of at least 1"),
    "max_grad_norm": (lambda value: value is None or _is_number(value, math.ulp(0.0), math.inf), "above 0, or None"),
    "warmup_frac": (lambda value: _is_number(value, 0.0, 1.0), "a number from 0 to 1"),
    "lr_schedule": (lambda value: value in _LR_SCHEDULES, f"one of {', '.join(_LR_SCHEDULES)}"),
    "optimizer": (lambda value: value in _OPTIMIZERS, f"one of {', '.join(_OPTIMIZERS)}"),
}
"""Of each hyperparameter, whether a value is valid and what it must be."""
