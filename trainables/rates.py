"""How fast a device multiplies matrices in each number format: what precisions can gain at the most."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from trainables.canary import canary
from trainables.isolation import isolated
from trainables.kernels import serving_kernel
from trainables.ladder import LADDER
from trainables.loading import describe
from trainables.precision import device_name, float8_reason, unsupported_reason

FORMATS = {
    "fp32": "float32",
    "tf32": "tf32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8": "float8",
}
"""Formats by the name that tables show -> the ladder's name for the arithmetic."""

SIZES = tuple(2**power for power in range(7, 14))
"""Rows and columns of the products, 128 to 8,192, as far as time allows."""

_MIN_PRODUCTS, _MAX_PRODUCTS = 3, 20
"""Timed products of a size."""

_GROWTH = 8
"""How many times as much arithmetic the next size takes."""


@dataclass(frozen=True)
class MatrixRate:
    """The rate of square matrix products in one format.

    Args:
        format: ``fp32`` (IEEE), ``tf32``, ``bf16``, ``fp16`` or ``fp8`` (E4M3, one scale a tensor).
        device: its name as it is sold.
        num_threads: of the CPU, 0 on CUDA.
        size: rows and columns of the largest product that time allowed.
        flops_per_s: at that size, of the median time.
        best_flops_per_s: of the shortest time: other work on the machine can only make a product slower.
        against_fp32: ``best_flops_per_s`` over that of ``fp32`` at the same size and number of threads.
        ran: the arithmetic that ran, of FP32 tensors by a canary, of others their own: ``float32``, ``tf32``, ...
        kernel: of the library that served it, where that is known.
        reason: why it was not measured; then the figures are missing.
    """

    format: str
    device: str
    num_threads: int
    size: int | None = None
    flops_per_s: float | None = None
    best_flops_per_s: float | None = None
    against_fp32: float | None = None
    ran: str | None = None
    kernel: str | None = None
    reason: str | None = None


def matrix_rates(device: torch.device, seconds: float = 2.0, num_threads: int = 1) -> list[MatrixRate]:
    """Rates of each format on a device, all timed at one size before any at the next, so that drift hits all alike.

    Args:
        device: where to measure.
        seconds: about how long it takes in all; a slow format stops at a smaller size than the others.
        num_threads: of the CPU.

    Returns:
        a rate for every format, measured or with a reason.
    """
    reasons = {name: reason for name in FORMATS if (reason := _unsupported(name, device)) is not None}
    left = [name for name in FORMATS if name not in reasons]
    slot = seconds / (2.5 * len(left))
    times: dict[str, dict[int, list[float]]] = {name: {} for name in left}
    for size in SIZES:
        for name in list(left):
            try:
                times[name][size] = _times(name, size, device, slot, num_threads)
            except (RuntimeError, NotImplementedError, TypeError) as error:
                reasons[name] = describe(error)
                left.remove(name)
        left = [name for name in left if min(times[name][size]) * _GROWTH * _MIN_PRODUCTS <= slot]
        if "fp32" not in left:
            break
    measured = {name for name in times if times[name]}  # a larger size may have failed, for memory
    return [_rate(n, device, num_threads, times, None if n in measured else reasons[n]) for n in FORMATS]


def _unsupported(name: str, device: torch.device) -> str | None:
    """Why a device has no arithmetic in a format."""
    if name == "fp8":
        return float8_reason(device)
    entry = next(entry for entry in LADDER.values() if entry.compute == FORMATS[name])
    return unsupported_reason(entry, device)


def _times(name: str, size: int, device: torch.device, slot: float, num_threads: int) -> list[float]:
    """Seconds of single products, after one of warm-up."""
    with _in_force(name, num_threads):
        product = make_product(name, size, device)
        _wait(product, device)
        times: list[float] = []
        while len(times) < _MIN_PRODUCTS or (len(times) < _MAX_PRODUCTS and sum(times) < slot):
            times.append(_wait(product, device))
        return times


@contextmanager
def _in_force(name: str, num_threads: int) -> Iterator[None]:
    """FP32 stays IEEE whatever the process allowed before; nothing is left behind."""
    with isolated(LADDER["tf32" if name == "tf32" else "fp32"], 0, num_threads), torch.no_grad():
        yield


def make_product(name: str, size: int, device: torch.device) -> Callable[[], torch.Tensor]:
    """A square product into memory that is already there, since a fresh result would be timed along.

    Args:
        name: one of :data:`FORMATS`.
        size: rows and columns.
        device: where it runs.
    """
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    if name == "fp8":
        # cuBLAS takes FP8 only where the second matrix lies by columns.
        left8, right8 = left.to(torch.float8_e4m3fn), right.t().contiguous().to(torch.float8_e4m3fn).t()
        one = torch.ones((), device=device)
        result = torch.empty(size, size, dtype=torch.bfloat16, device=device)
        # Sums are kept as short as in torchao's forward products; those of its backward with one scale are longer.
        return lambda: torch._scaled_mm(
            left8, right8, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, out=result, use_fast_accum=True
        )
    dtype = torch.float32 if name == "tf32" else getattr(torch, FORMATS[name])
    left, right = left.to(dtype), right.to(dtype)
    result = torch.empty(size, size, dtype=dtype, device=device)
    return lambda: torch.mm(left, right, out=result)


def _wait(product: Callable[[], torch.Tensor], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # pragma: gpu
    started = time.perf_counter()
    product()
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # pragma: gpu
    return time.perf_counter() - started


def _rate(
    name: str, device: torch.device, num_threads: int, times: dict[str, dict[int, list[float]]], reason: str | None
) -> MatrixRate:
    threads = 0 if device.type == "cuda" else num_threads
    if reason is not None:
        return MatrixRate(name, device_name(device), threads, reason=reason)
    size, measured = max(times[name].items())
    flops = 2.0 * size**3
    with _in_force(name, num_threads):
        product = make_product(name, size, device)
        product()
        kernel = serving_kernel(product, device)
        narrowed = name in ("fp32", "tf32")
        ran = canary("matmul", (size, size, size), device) if narrowed else FORMATS[name]
    return MatrixRate(
        name,
        device_name(device),
        threads,
        size,
        flops / statistics.median(measured),
        flops / min(measured),
        min(times["fp32"][size]) / min(measured) if size in times["fp32"] else None,
        ran,
        kernel,
    )
