"""The steps of a Lightning module without a Trainer: what ``training_step`` returns, what validation logs."""

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trainables.outputs import batch_length
from trainables.spec import Budget
from trainables.task import Batch

SERVED = ("on_validation_start", "on_validation_epoch_start", "on_validation_epoch_end", "on_validation_end")
"""Hooks that are called; a module that has others of its own is refused."""


class NoTrainer:
    """Stands in for a module's trainer: knows what is true here, and says of all else that there is none.

    Args:
        datamodule: where the data comes from; ``None`` where it is the module's own.
    """

    def __init__(self, datamodule: Any) -> None:
        self.datamodule = datamodule
        self.global_step = self.current_epoch = self.batch_idx = 0
        self.logger, self.loggers, self.progress_bar_callback = None, (), None
        self.sanity_checking, self.is_global_zero = False, True
        self.world_size, self.global_rank, self.local_rank = 1, 0, 0

    def plan(self, budget: Budget, steps_per_epoch: int) -> None:
        """Makes known how long the run is, which schedules are often made with."""
        self.num_training_batches = steps_per_epoch
        self.estimated_stepping_batches = budget.num_steps(steps_per_epoch)
        self.max_epochs = budget.max_epochs or -(-self.estimated_stepping_batches // steps_per_epoch)
        self.max_steps = -1 if budget.max_steps is None else budget.max_steps  # -1 is Lightning's for no limit

    def move_to(self, step: int, steps_per_epoch: int, validates: bool) -> None:
        """Makes known where training stands; a pass over the validation set belongs to the epoch that it ends."""
        self.global_step, self.validating, self.training = step, validates, not validates
        self.current_epoch, self.batch_idx = divmod(max(0, step - validates), steps_per_epoch)

    def __getattr__(self, name: str) -> Any:
        # No AttributeError, which PyTorch's modules turn into one about themselves.
        remedy = "leave it out, or train by a function of your own, marked @trainable"
        raise RuntimeError(f"self.trainer.{name} must not be needed: our loop trains, without a Trainer; {remedy}")


class Logged:
    """What a module logs in one pass over the validation set, and the means of it.

    Made, it calls the hooks before a pass; :meth:`compute` calls those after it.

    Args:
        module: a Lightning module in evaluation.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._values: dict[str, list[tuple[Any, int]]] = {}
        self._reduce: dict[str, Any] = {}
        self._metrics: dict[str, Any] = {}
        self._names: dict[str, None] = {}
        self._has_loss = False
        self.num_batches = 0
        self._weight = 1
        self._call("on_validation_start", "on_validation_epoch_start")

    def _call(self, *hooks: str) -> None:
        with torch.no_grad(), logging_to(self._module, self.log):
            for name in hooks:
                getattr(self._module, name)()

    def validate(self, batch: Batch) -> torch.Tensor:
        """A batch's loss, as ``validation_step`` returns it; NaN where it returns none."""
        self._weight = batch_length(batch)
        with logging_to(self._module, self.log):
            found = call_step(self._module.validation_step, batch, self.num_batches)
        self.num_batches += 1
        loss = found.get("loss") if isinstance(found, Mapping) else found
        self._has_loss = self._has_loss or isinstance(loss, torch.Tensor)
        return loss if isinstance(loss, torch.Tensor) else torch.tensor(math.nan)

    def log(self, name: str, value: Any, *_: Any, **options: Any) -> None:
        """As a module's ``self.log``."""
        if options.get("on_epoch") is False:
            return
        name = metric_name(name)
        self._names.setdefault(name)
        if is_metric(value):
            self._metrics[name] = value
            return
        weight = options.get("batch_size") or self._weight
        value = value.detach() if isinstance(value, torch.Tensor) else value
        self._values.setdefault(name, []).append((value, weight))
        self._reduce[name] = options.get("reduce_fx", "mean")

    def update(self, outputs: Any, batch: Batch) -> None:
        """All of a batch was logged while it ran."""

    def compute(self) -> dict[str, float]:
        """Name -> value over the whole pass; ``loss`` where that was logged.

        Raises:
            ValueError: there is no validation loss.
        """
        self._weight = 1
        self._call("on_validation_epoch_end", "on_validation_end")
        found = {name: _reduced(values, self._reduce[name]) for name, values in self._values.items()}
        found |= {name: float(metric.compute()) for name, metric in self._metrics.items()}
        for metric in self._metrics.values():  # only now: those of a MetricCollection may share what they keep
            metric.reset()
        if not self._has_loss and "loss" not in found:
            raise ValueError("validation_step must log val_loss or return the loss, got neither; add one of them")
        return {name: found[name] for name in self._names}


def is_metric(value: Any) -> bool:
    """Whether what is logged is a metric object of torchmetrics'."""
    return hasattr(value, "compute") and hasattr(value, "reset")


def _reduced(values: list[tuple[Any, int]], how: Any) -> float:
    numbers = torch.stack([torch.as_tensor(value).double().cpu().reshape(()) for value, _ in values])
    if how in ("mean", torch.mean):
        weights = torch.tensor([float(weight) for _, weight in values], dtype=torch.float64)
        return float((numbers * weights).sum() / weights.sum())
    return float({"max": torch.max, "min": torch.min, "sum": torch.sum}.get(how, how)(numbers))


def metric_name(logged: str) -> str:
    """What is logged as ``val_acc``, ``val/acc`` or ``acc`` is the metric ``acc``."""
    name = re.sub(r"^(val|valid|validation)[_/.\- ]+", "", logged)
    return re.sub(r"\W+", "_", name).strip("_") or logged


@contextmanager
def logging_to(module: nn.Module, log: Callable[..., None]) -> Iterator[None]:
    """Has what a module logs go to a function; its ``log_dict`` calls ``log``."""
    module.__dict__["log"] = log
    try:
        yield
    finally:
        del module.__dict__["log"]


def call_step(step: Callable[..., Any], batch: Batch, index: int) -> Any:
    """Calls a step with a batch and, where it takes it, the batch's index."""
    parameters = inspect.signature(step).parameters
    return step(batch, index) if len(parameters) > 1 else step(batch)


def training_loss(module: Any, batch: Batch, index: int, log: Callable[..., None]) -> torch.Tensor:
    """The loss of a batch; ``log`` takes what is logged.

    Raises:
        TypeError: ``training_step`` returns none.
    """
    with logging_to(module, log):
        found = call_step(module.training_step, batch, index)
    loss = found.get("loss") if isinstance(found, Mapping) else found
    if not isinstance(loss, torch.Tensor):
        kind = type(found).__name__
        raise TypeError(f"training_step must return the loss, or a dict with loss, got {kind}; correct what it returns")
    return loss
