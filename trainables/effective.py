"""The precision that a step's arithmetic really ran in, observed by dispatch and by a numeric canary, never from flags.

Dispatch tells the dtypes of the tensors that each matrix product was given; but products of FP32 tensors may run in
TF32, BF16 or FP16 inside, so a canary multiplies values that each of these formats rounds in its own way, at the
model's shapes.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from trainables.ladder import Precision
from trainables.loop import Loop
from trainables.memory import activation_bytes

EFFECTIVE_SHARE = 0.9
"""Share of a step's matrix FLOPs that must have run in a precision's format for it to be effective."""

_NAMES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@dataclass(frozen=True)
class Observation:
    """What one step did.

    Args:
        effective: the ladder's name for what ran, or another format's name where the ladder has none; ``None`` where no
            format has 90 % of the matrix FLOPs, or there were none.
        share: share of the matrix FLOPs that ran in the asked precision's format, 0 to 1; NaN without any.
        flops: format -> matrix FLOPs of the step.
        activations: bytes saved for backward.
        draws: whether its forward drew random numbers, as dropout does.
    """

    effective: str | None
    share: float
    flops: dict[str, int]
    activations: int
    draws: bool = False

    def mismatch(self, precision: Precision) -> str | None:
        """Why this is not the precision that was asked for, in one sentence; ``None`` if it is."""
        if self.effective == precision.name:
            return None
        total = sum(self.flops.values())
        if not total:
            return f"no matrix product was seen, so {precision.name} could not be observed"
        ran = ", ".join(f"{flops / total:.0%} {name}" for name, flops in Counter(self.flops).most_common())
        return f"asked for {precision.name}, but the step's matrix FLOPs ran as {ran}"


class _MatrixFlops(TorchDispatchMode):
    """Counts matrix FLOPs by (kind, dtype) and keeps the largest FP32 product of each kind."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: Counter[tuple[str, torch.dtype]] = Counter()
        self.largest: dict[str, tuple[int, tuple[Any, ...]]] = {}
        self.error: Exception | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: keeping ``torch.compile`` out of what it never sees imports all of it, which takes as long as PyTorch."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        try:
            self._count(func, args, kwargs or {}, result)
        except Exception as error:  # the step itself goes on: whoever counts decides what that means
            self.error = error
        return result

    def _count(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        operation = str(func._overloadpacket).removesuffix("_for_cpu").replace("_for_cpu_backward", "_backward")
        count = _FLOP_FORMULAS.get(operation)
        if count is not None:
            flops = int(count(*args, **kwargs, out_val=result))
            kind = next((kind for kind in ("conv", "rnn") if kind in operation), "matmul")
            dtype = [a for a in args if isinstance(a, torch.Tensor)][1].dtype
            self.flops[kind, dtype] += flops
            if dtype is torch.float32 and flops > self.largest.get(kind, (0, ()))[0]:
                self.largest[kind] = (flops, _shapes(operation, args))


def _rnn_flops(sequence: torch.Tensor, *args: Any, out_val: Any) -> int:
    """Two FLOPs for each weight and time step of a fused recurrent layer, whose weights oneDNN takes singly."""
    weights = args[0] if isinstance(args[0], list | tuple) else args[:2]
    steps = sequence.numel() // sequence.shape[-1]
    return 2 * steps * sum(int(weight.numel()) for weight in weights if weight.dim() == 2)


def _rnn_backward_flops(*args: Any, out_val: Any) -> int:
    return 2 * _rnn_flops(*args, out_val=out_val)


_FLOP_FORMULAS = {str(operation): formula for operation, formula in flop_registry.items()} | {
    f"aten.{name}{suffix}": formula
    for name in ("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn")
    for suffix, formula in (("", _rnn_flops), ("_backward", _rnn_backward_flops))
}
"""FLOP formulas by operation; attention on the CPU goes under the name that it has on CUDA."""


def _shapes(operation: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a canary of the same shape needs: (m, k, n), a convolution's arguments, or the shape of a sequence."""
    if "rnn" in operation:
        return tuple(args[0].shape)
    if "conv" in operation:
        # Both have a bias (or its size) between weight and stride; backward has the output's gradient in front.
        image, weight, _, *rest = args[1:] if "backward" in operation else args
        stride, padding, dilation, transposed, _, groups = rest[:6]
        last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        return tuple(image.shape), tuple(weight.shape), layout, stride, padding, dilation, transposed, groups
    operands = [a.shape for a in args if isinstance(a, torch.Tensor) and a.dim() >= 2][-2:]
    return operands[0][-2], operands[0][-1], operands[-1][-1]


def observe(loop: Loop) -> Observation:
    """Runs forward and backward once on the first micro-batch and leaves the loop as it was.

    Args:
        loop: before or during training, its precision's numerics in force.
    """
    with _undisturbed(loop.model), _MatrixFlops() as seen, activation_bytes(loop.model) as saved:
        loop.model.train()
        batch, before = loop.data.first_part(), _generators(loop.device)
        loss = loop.forward(batch)[1]
        draws = any(not torch.equal(a, b) for a, b in zip(before, _generators(loop.device), strict=True))
        activations = saved()
        loss.backward()
    loop.optimizer.zero_grad(set_to_none=True)
    return replace(judge(loop.precision, _by_format(seen, loop.device), activations), draws=draws)


@contextmanager
def matrix_flops(device: torch.device) -> Iterator[Counter[str]]:
    """Counts the matrix FLOPs of all that runs inside.

    Args:
        device: where it runs, for the canary.

    Yields:
        format -> FLOPs, empty until the context is left.

    Raises:
        Exception: as the context is left: a product could not be counted.
    """
    flops: Counter[str] = Counter()
    with _MatrixFlops() as seen:
        yield flops
    flops.update(_by_format(seen, device))


def _by_format(seen: _MatrixFlops, device: torch.device) -> Counter[str]:
    """Matrix FLOPs by the format that they ran in."""
    if seen.error is not None:
        raise seen.error
    inner = {kind: canary(kind, shapes, device) for kind, (_, shapes) in seen.largest.items()}
    flops: Counter[str] = Counter()
    for (kind, dtype), count in seen.flops.items():
        flops[inner.get(kind, "float32") if dtype is torch.float32 else _NAMES.get(dtype, str(dtype))] += count
    return flops


def _generators(device: torch.device) -> list[torch.Tensor]:
    """The states of torch's generators that a forward may draw from."""
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_device]


def judge(precision: Precision, flops: Counter[str], activations: int = 0) -> Observation:
    """The effective precision of a step.

    Args:
        precision: what was asked for.
        flops: format (``float32``, ``tf32``, ``bfloat16``, ``float16``, ...) -> matrix FLOPs.
        activations: bytes saved for backward.
    """
    total = sum(flops.values())
    share = flops[precision.compute] / total if total else math.nan
    effective = None
    if total:
        ran, most = flops.most_common(1)[0]
        if most / total >= EFFECTIVE_SHARE:
            effective = _label(ran, precision)
    return Observation(effective, share, dict(flops), activations)


def _label(ran: str, precision: Precision) -> str:
    return precision.name if ran == precision.compute else precision_name(ran, precision.parameters)


def precision_name(ran: str, parameters: str) -> str:
    """The ladder's name for products in one format with parameters in another; a format without one keeps its own."""
    stored = "true" if parameters == ran else "mixed"
    return {"float32": "fp32", "bfloat16": f"bf16-{stored}", "float16": f"fp16-{stored}"}.get(ran, ran)


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Puts back the buffers (such as BatchNorm's running statistics) and the generators that a step moves."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = [torch.cuda.current_device()] if next(model.parameters()).is_cuda else []
    with torch.random.fork_rng(devices=devices):
        yield
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def canary(kind: str, shapes: tuple[Any, ...], device: torch.device) -> str:
    """The format that a product of FP32 tensors runs in: ``float32``, ``tf32``, ``bfloat16`` or ``float16``.

    A value times one must come back unchanged. 1 + 2^-12 needs a longer mantissa than TF32's and FP16's 10 bits, 1 +
    2^-9 one longer than BF16's 7, and 2^17 a wider exponent than FP16's.

    Args:
        kind: ``"matmul"``, ``"conv"`` or ``"rnn"``.
        shapes: of the product, as the dispatch mode keeps them.
        device: where the product runs, under the settings in force.
    """
    if _through(kind, shapes, 1 + 2**-12, device):
        return "float32"
    if not _through(kind, shapes, 1 + 2**-9, device):
        return "bfloat16"
    return "tf32" if _through(kind, shapes, 2.0**17, device) else "float16"


def _through(kind: str, shapes: tuple[Any, ...], value: float, device: torch.device) -> bool:
    """Whether a value comes unchanged through a product in which all else is ones and zeros."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        product = {"matmul": _matmul, "conv": _conv, "rnn": _rnn}[kind](shapes, value, device)
        return bool(product.abs().max().item() == value)


def _rnn(shapes: tuple[Any, ...], value: float, device: torch.device) -> torch.Tensor:
    """A recurrent layer as wide as its input, and with ReLU, since an LSTM's gates would change the value."""
    sequence = torch.zeros(shapes, dtype=torch.float32, device=device)
    sequence[..., 0] = value
    weights = torch.zeros(2, shapes[-1], shapes[-1], dtype=torch.float32, device=device)
    weights[0, :, 0] = 1.0
    start = torch.zeros(1, *shapes[1:], dtype=torch.float32, device=device)
    return torch.rnn_relu(sequence, start, tuple(weights), False, 1, 0.0, False, False, False)[0]


def _matmul(shapes: tuple[Any, ...], value: float, device: torch.device) -> torch.Tensor:
    m, k, n = shapes
    left = torch.zeros(m, k, dtype=torch.float32, device=device)
    left[:, 0] = 1.0
    right = torch.zeros(k, n, dtype=torch.float32, device=device)
    right[0] = value
    return left @ right


def _conv(shapes: tuple[Any, ...], value: float, device: torch.device) -> torch.Tensor:
    images, kernels, layout, stride, padding, dilation, transposed, groups = shapes
    weight = torch.zeros(kernels, dtype=torch.float32, device=device)
    middle = tuple(size // 2 for size in kernels[2:])
    weight[(0, slice(None), *middle) if transposed else (slice(None), 0, *middle)] = 1.0
    weight = weight.contiguous(memory_format=layout)
    image = torch.full(images, value, dtype=torch.float32, device=device)
    return torch.convolution(image, weight, None, stride, padding, dilation, transposed, [0] * len(stride), groups)
