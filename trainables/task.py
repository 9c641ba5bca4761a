"""What is fine-tuned: a model, its data, a loss and metrics."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

Batch: TypeAlias = Any
"""A tensor, a tuple of tensors (the labels last) or a dict of tensors (the labels under ``"labels"``)."""

LossFunction: TypeAlias = Callable[[Any, Batch], torch.Tensor]
MetricFunction: TypeAlias = Callable[[Any, Batch], "torch.Tensor | tuple[Any, Any]"]


class Collector(Protocol):
    """Metrics of one pass over the validation set whose names only the pass tells."""

    def update(self, outputs: Any, batch: Batch) -> None:
        """Takes in a batch."""

    def compute(self) -> Mapping[str, float]:
        """Name -> value over all batches; ``loss`` takes the place of the mean of the batches' losses."""


class Scheduler(Protocol):
    """Changes an optimizer's learning rate as it steps; PyTorch's schedulers of the step alone are some."""

    def step(self) -> None:
        """An optimizer step was made, and another is about to be."""

    def state_dict(self) -> dict[str, Any]:
        """Plain data to go on from."""

    def load_state_dict(self, state_dict: Any) -> None:
        """Goes on from it."""


@dataclass(frozen=True)
class Task:
    """What a task's function returns for one configuration.

    Args:
        model: the module to train, with its parameters in FP32 on the CPU.
        train_set: map-style data set; an item is a tensor, a tuple or a dict of tensors.
        val_set: the same, for the metrics.
        loss: ``(outputs, batch) -> scalar``, a mean over the batch. Default: the loss that the model itself returns,
            else cross-entropy of its logits with integer labels.
        metrics: name -> ``(outputs, batch) -> one value per example`` or ``(sum, count)``; or a class (or
            ``functools.partial`` of one) with torchmetrics' ``update(logits, labels)`` and ``compute()``. Columns are
            named ``val_<name>``. Default: ``{"accuracy": ...}`` where labels are integers; of tokens, as far as the
            model's own loss tells whether they are the next ones (of Hugging Face's causal models they are). Where only
            a pass over the validation set tells their names: what makes a :class:`Collector`.
        collate: as ``DataLoader``'s ``collate_fn``.
        lengths: one number per training item; batches are then made of items of similar length.
        param_groups: ``model -> `` the optimizer's parameter groups.
        num_workers: processes that draw items ahead of training, for data sets that read or decode files; what items
            draw at random then depends on seed, epoch and index alone. They need CPUs of the trial's, so that on a CPU
            they compete with the training itself. 0, the default, draws a batch when it is wanted, in the trial's own
            process: as fast for what is in memory.
        remarks: what a user should know of how it was built, a sentence each, as that texts were truncated.
        losses: ``(outputs, batch) -> one loss per example``, whose mean over the validation set is ``val_loss``: arms
            are then compared on it example by example. Without it ``val_loss`` is a mean of batches.
        batch_size: where the configuration names none.
        val_batch_size: of the passes over the validation set; ``None``: twice a micro-batch.
        forward: ``(model, batch) -> outputs``. Default: the model is called with the batch, without its labels.
        optimizer: ``model -> `` an optimizer of the task's own, which the loop's ``learning_rate``, ``weight_decay``
            and ``optimizer`` then say nothing to; where it returns ``None`` the loop makes one.
        scheduler: ``(optimizer, steps per epoch) -> `` what is stepped between the steps of a full run.
        at_step: called with the optimizer steps so far and those of an epoch, before each step and each pass over the
            validation set.
    """

    model: nn.Module
    train_set: Dataset[Any]
    val_set: Dataset[Any]
    loss: LossFunction | None = None
    metrics: Mapping[str, MetricFunction | Callable[[], Any]] | Callable[[], Collector] | None = None
    collate: Callable[[list[Any]], Batch] | None = None
    lengths: Sequence[int] | None = None
    param_groups: Callable[[nn.Module], Iterable[Any]] | None = None
    num_workers: int = 0
    remarks: Sequence[str] = ()
    losses: LossFunction | None = None
    batch_size: int | None = None
    val_batch_size: int | None = None
    forward: Callable[[nn.Module, Batch], Any] | None = None
    optimizer: Callable[[nn.Module], Optimizer | None] | None = None
    scheduler: Callable[[Optimizer, int], Scheduler] | None = None
    at_step: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(self.model).__name__}")
        for name in ("train_set", "val_set"):
            data = getattr(self, name)
            if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
                raise TypeError(f"{name} must be a map-style data set (with len() and []), got {type(data).__name__}")
            if len(data) == 0:
                raise ValueError(f"{name} must hold at least one item, got none")
        if isinstance(self.metrics, Mapping) and "loss" in self.metrics:
            raise ValueError("metrics must not hold the name 'loss': val_loss is the loss itself; choose another name")
        if self.lengths is not None and len(self.lengths) != len(self.train_set):  # type: ignore[arg-type]
            raise ValueError(f"lengths must hold one number per training item, got {len(self.lengths)}")
        if isinstance(self.num_workers, bool) or not isinstance(self.num_workers, int) or self.num_workers < 0:
            raise ValueError(f"num_workers must be a whole number of at least 0, got {self.num_workers!r}")
