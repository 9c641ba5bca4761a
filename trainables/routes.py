"""Kernel routes: ways for PyTorch to compute the same step in the same precision by other kernels. Imports no torch.

A route is ``default``, or options joined by ``+``. Whether an option is faster depends on the model and the machine,
and what is harmless on one machine computes in another precision on the next. So the probe times them, and a route
counts only where the canary finds the precision unchanged.
"""

import itertools
from collections.abc import Collection
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainables.ladder import Precision

DEFAULT = "default"
"""As PyTorch takes it by itself."""

CHANNELS_LAST, ONEDNN, CUBLASLT, CUDNN_BENCHMARK = "channels_last", "onednn", "cublaslt", "cudnn_benchmark"

OPTIONS = MappingProxyType(
    {
        CHANNELS_LAST: "stores images so",
        ONEDNN: "has FP32 products on CPUs computed by oneDNN, which is faster than MKL on some",
        CUBLASLT: "has products on GPUs computed by cuBLASLt",
        CUDNN_BENCHMARK: "has cuDNN try its convolutions and keep the fastest",
    }
)
"""What a route is made of, in the order in which the probe tries it -> what it does."""


def join(options: Collection[str]) -> str:
    """The route with these options."""
    return "+".join(name for name in OPTIONS if name in options) or DEFAULT


def options_in(route: str) -> tuple[str, ...]:
    """The options of a route, none for the default one."""
    return () if route == DEFAULT else tuple(route.split("+"))


ROUTES = tuple(join(some) for num in range(len(OPTIONS) + 1) for some in itertools.combinations(OPTIONS, num))
"""Every route there is."""


def without_layout(route: str) -> str:
    """The route without what changes the order in which tensors are stored, and so filled with random numbers."""
    return join([name for name in options_in(route) if name != CHANNELS_LAST])


def options_for(
    model: "nn.Module", precision: "Precision", device: "torch.device", kinds: Collection[str]
) -> tuple[str, ...]:
    """The options that may make a difference.

    Args:
        model: in training.
        precision: that it trains in.
        device: where it trains.
        kinds: of its step's products: ``"matmul"``, ``"conv"``, ``"rnn"``.
    """
    on_gpu = device.type == "cuda"
    worth_it = {
        CHANNELS_LAST: any(parameter.dim() == 4 for parameter in model.parameters()),
        ONEDNN: not on_gpu and precision.compute == "float32" and "matmul" in kinds,
        CUBLASLT: on_gpu and "matmul" in kinds,
        CUDNN_BENCHMARK: on_gpu and "conv" in kinds,
    }
    return tuple(name for name in OPTIONS if worth_it[name])


def take_layout(route: str, model: "nn.Module") -> None:
    """Has a model stored as a route wants it; its weights keep their values."""
    if CHANNELS_LAST in options_in(route):
        import torch

        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def settings_of(route: str) -> dict[str, Any]:
    """The global settings that a route needs otherwise than the precision has them: name -> value.

    oneDNN takes FP32 products only where it is allowed to compute them in BF16: a CPU with AMX would, others do not.
    The old switch follows, for libraries that still read it; on a CPU the settings of CUDA that it brings along mean
    nothing.
    """
    settings: dict[str, Any] = {}
    options = options_in(route)
    if ONEDNN in options:
        settings |= {"float32_matmul_precision": "medium", "mkldnn.matmul.fp32_precision": "bf16"}
        settings |= {"cuda.matmul.fp32_precision": "tf32"}
    if CUBLASLT in options:
        settings["blas_library"] = "cublaslt"
    if CUDNN_BENCHMARK in options:
        settings["cudnn.benchmark"] = True
    return settings
