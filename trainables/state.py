"""The state that a step runs in: dtypes of what it keeps, autocast, the loss scale, global settings, attention kernels.

What dispatch cannot see: an embedding in BF16 takes part in no matrix product, and a setting may change only after the
observed step.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.ladder import Precision
from trainables.precision import changed_setting


class Trained(Protocol):
    """What is trained, and how; a :class:`trainables.loop.Loop` is one."""

    @property
    def model(self) -> nn.Module:
        """The module."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Over its parameters."""

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """Of its loss; ``None`` in a precision that needs none."""

    @property
    def precision(self) -> Precision:
        """What was asked for."""

    @property
    def route(self) -> str:
        """The kernel route in force."""

    @property
    def device(self) -> torch.device:
        """Where it trains."""

    @property
    def autocast(self) -> AbstractContextManager[Any]:
        """What its forward is to run in."""


@dataclass(frozen=True)
class State:
    """What a loop keeps and how it would step.

    Args:
        parameters, gradients, optimizer: dtype -> name of the first tensor that has it; of the optimizer's state
            without its step counters. Empty where there is none yet.
        changed: the first setting that is no longer as it was put in force, in words; ``None`` where all are.
        scaler_on, loss_scale: of the scaler; ``None`` without one.
    """

    parameters: dict[str, str]
    gradients: dict[str, str]
    optimizer: dict[str, str]
    changed: str | None = None
    scaler_on: bool | None = None
    loss_scale: float | None = None

    def fault(self, precision: Precision) -> str | None:
        """Why a step in this state is none of that precision, in one clause; ``None`` if it may be."""
        return self.changed or self._kept_otherwise(precision) or self._unscaled(precision)

    def _kept_otherwise(self, precision: Precision) -> str | None:
        for what in ("parameters", "gradients", "optimizer"):
            for dtype, name in getattr(self, what).items():
                if dtype != precision.parameters:
                    kept = {"parameters": name, "gradients": f"the gradient of {name}"}.get(what, name)
                    return f"{kept} is {dtype}, not {precision.parameters}"
        return None

    def _unscaled(self, precision: Precision) -> str | None:
        if not precision.scaled:
            return None
        if not self.scaler_on:
            return "the loss scaler is off"
        if self.loss_scale is None or not 0 < self.loss_scale < math.inf:
            return f"the loss scale is {self.loss_scale}, so that no step would be applied"
        return None


def read_state(loop: Trained) -> State:
    """The state that stands; waits for the device where there is a loss scale."""
    scaler = loop.scaler
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in loop.model.named_parameters()}
    return State(
        parameters=_dtypes((name, parameter) for parameter, name in names.items()),
        gradients=_dtypes((name, parameter.grad) for parameter, name in names.items()),
        optimizer=_dtypes(
            (f"the optimizer's {key} of {names.get(parameter, 'a tensor')}", value)
            for parameter, kept in loop.optimizer.state.items()
            for key, value in kept.items()
            if key != "step"
        ),
        changed=changed_setting(loop.precision, loop.route),
        scaler_on=None if scaler is None else scaler.is_enabled(),
        loss_scale=None if scaler is None else scaler.get_scale(),
    )


def _dtypes(tensors: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Dtype -> name of the first floating-point tensor that has it."""
    found: dict[str, str] = {}
    for name, tensor in tensors:
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            found.setdefault(str(tensor.dtype).removeprefix("torch."), name)
    return found


@dataclass
class InForward:
    """What was seen while a forward ran.

    Args:
        autocast: the dtype that autocast picked as the model was entered; ``None`` where autocast was off.
        called: whether the model was.
        attention: kernels of the fused attention function: ``flash``, ``efficient``, ``cudnn``, or ``math`` where it
            fell back on plain products.
    """

    autocast: torch.dtype | None = None
    called: bool = False
    attention: set[str] = field(default_factory=set)

    def fault(self, loop: Trained) -> str | None:
        """Why this is not the autocast that the loop asks for, in one clause; ``None`` if it is."""
        asked = loop.autocast.fast_dtype if isinstance(loop.autocast, torch.autocast) else None
        if not self.called or self.autocast is asked:
            return None
        ran, wanted = ("off" if dtype is None else f"on, to {dtype}" for dtype in (self.autocast, asked))
        return f"autocast was {ran} as the model was called, not {wanted}"


@contextmanager
def watch_forward(loop: Trained) -> Iterator[InForward]:
    """Looks on while the model is called inside the ``with``."""
    seen, kind = InForward(), loop.device.type

    def look(*_: Any) -> None:
        seen.called = True
        seen.autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None

    hook = loop.model.register_forward_pre_hook(look, prepend=True)
    try:
        with _Attention(seen.attention):
            yield seen
    finally:
        hook.remove()


_ATTENTION: frozenset[Callable[..., Any]] = frozenset(
    {functional.scaled_dot_product_attention, functional.multi_head_attention_forward}
)
"""Functions that choose an attention kernel. Where they take plain products, dispatch sees nothing but these."""


class _Attention(TorchFunctionMode):
    def __init__(self, kernels: set[str]) -> None:
        super().__init__()
        self._kernels = kernels

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _ATTENTION:
            return func(*args, **(kwargs or {}))
        with _FusedKernels() as seen:
            result = func(*args, **(kwargs or {}))
        self._kernels |= seen.names or {"math"}
        return result


class _FusedKernels(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No, as in :mod:`trainables.effective`."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fused = re.search(r"_scaled_dot_product_(\w+?)_attention", str(func))
        if fused:
            self.names.add(fused[1])
        return func(*args, **(kwargs or {}))
