"""A task made of a model factory and tensors in memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from trainables.task import LossFunction, Task


@dataclass(frozen=True)
class InMemory:
    """Builds the task for a configuration; called as a task's function is.

    Args:
        make_model: from a configuration to a new module, with its parameters in FP32 on the CPU.
        train, val: tensors of one length each: the inputs, and last the labels.
        loss, metrics: as of :class:`trainables.task.Task`.
    """

    make_model: Callable[[dict[str, Any]], nn.Module]
    train: tuple[torch.Tensor, ...]
    val: tuple[torch.Tensor, ...]
    loss: LossFunction | None = None
    metrics: Mapping[str, Any] | None = None

    @property
    def named_after(self) -> object:
        """What the task is called after."""
        return self.make_model

    def __call__(self, config: Mapping[str, Any]) -> Task:
        """The task for a configuration."""
        model = self.make_model(dict(config))
        return Task(model, TensorDataset(*self.train), TensorDataset(*self.val), loss=self.loss, metrics=self.metrics)


def own_tensors(name: str, data: object) -> tuple[torch.Tensor, ...]:
    """Inputs and labels as tensors on the CPU that hold nothing else: no gradient, no larger tensor behind them.

    Args:
        name: of the data in errors.
        data: two tensors or more (or arrays) of one length: the inputs, and last the labels. FP64, which NumPy makes,
            becomes FP32, which models compute in.

    Raises:
        ValueError: it is something else; one line that says what.
    """
    if not isinstance(data, tuple | list) or len(data) < 2:
        raise ValueError(f"{name}: must be a pair of inputs and labels, got {_kind(data)}; pass (x_{name}, y_{name})")
    tensors = tuple(_own_tensor(name, part) for part in data)
    lengths = [len(tensor) for tensor in tensors]
    if len(set(lengths)) > 1 or not lengths[0]:
        condition = "must hold as many labels as inputs, and at least one"
        raise ValueError(f"{name}: {condition}, got {' and '.join(map(str, lengths))}; pass tensors of one length")
    return tensors


def _own_tensor(name: str, part: object) -> torch.Tensor:
    try:
        tensor = torch.as_tensor(part).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: must hold tensors, got {_kind(part)} ({error}); convert it") from None
    if tensor.ndim == 0:
        raise ValueError(f"{name}: must hold tensors with an example in each row, got a single number; pass a batch")
    tensor = tensor.float() if tensor.dtype == torch.float64 else tensor
    whole = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)


def _kind(value: object) -> str:
    length = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{length}"
