"""What a model is given in the steps of a loop of one's own: its fingerprint, and how many examples it is."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from trainables.outputs import upcast


class GivenData:
    """Looks on as a model is called.

    Its inputs are hashed in the steps 1, 2, 4, 8 and so on, since hashing all would slow the steps; floating-point ones
    as BF16, in which a loop that casts them for its precision gives the same as one that does not.
    """

    def __init__(self) -> None:
        self._content = hashlib.sha256()
        self._step: int | None = None
        self._num_given = 0

    @property
    def batch_size(self) -> float:
        """Examples that the model was given in the first step, the rows of its first tensors; NaN without any."""
        return self._num_given or math.nan

    def begin(self, step: int) -> None:
        """A step begins, counted from 1."""
        self._step = step

    def end(self) -> None:
        """It has ended: what the model is called with until the next one is not for training."""
        self._step = None

    def look(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """The model is called."""
        if self._step is None or self._step & (self._step - 1):
            return
        tensors = list(_tensors((args, kwargs)))
        if self._step == 1 and tensors:
            self._num_given += len(tensors[0]) if tensors[0].dim() else 1
        for tensor in tensors:
            neutral = tensor.detach().to(torch.bfloat16) if tensor.is_floating_point() else tensor
            self._content.update(f"{self._step} {tuple(tensor.shape)}".encode())
            self._content.update(neutral.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())

    def digest(self) -> str:
        """A fingerprint of what was looked at so far."""
        return self._content.hexdigest()[:16]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a nest of tuples, lists and mappings, in their order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)


def watch_inputs(model: nn.Module, data: GivenData, dtype: torch.dtype | None) -> None:
    """Has a model's inputs looked at for good, and cast.

    Args:
        model: what is called.
        data: looks on.
        dtype: of its floating-point inputs, its outputs being FP32 again; ``None`` leaves both.
    """

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        data.look(args, kwargs)
        return None if dtype is None else (_cast(args, dtype), _cast(kwargs, dtype))

    model.register_forward_pre_hook(before, with_kwargs=True)
    if dtype is not None:
        model.register_forward_hook(lambda _, args, outputs: upcast(outputs))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: _cast(each, dtype) for name, each in value.items()}
    return type(value)(_cast(each, dtype) for each in value) if type(value) in (tuple, list) else value
