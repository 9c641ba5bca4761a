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
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type
from torch.utils.flop_counter import flop_registry

from trainables.ladder import Precision
from trainables.loop import Loop
from trainables.memory import activation_bytes

EFFECTIVE_SHARE = 0.9
"""Share of a step's matrix FLOPs that must have run in a precision's format for it to be effective."""

FLOAT8_SHARE = 0.5
"""Share that must have run in FP8 for an FP8 precision to be effective; with BF16's it must reach the above."""

_FLOAT8 = ("float8-tensorwise", "float8-rowwise")

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
        self.flops: Counter[tuple[str, torch.dtype | str]] = Counter()
        self.largest: dict[str, tuple[int, tuple[Any, ...]]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: keeping ``torch.compile`` out of what it never sees imports all of it, which takes as long as PyTorch."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(is_traceable_wrapper_subclass_type(kind) for kind in types):
            return (
                NotImplemented  # what torchao wraps claims its old dtype; the products that it becomes come here, too
            )
        result = func(*args, **(kwargs or {}))
        operation = str(func._overloadpacket).removesuffix("_for_cpu").replace("_for_cpu_backward", "_backward")
        count = _FLOP_FORMULAS.get(operation)
        if count is not None:
            flops = int(count(*args, **(kwargs or {}), out_val=result))
            kind = next((kind for kind in ("conv", "rnn") if kind in operation), "matmul")
            dtype = [a for a in args if isinstance(a, torch.Tensor)][1].dtype
            self.flops[kind, _float8_format(args[2]) if operation == "aten._scaled_mm" else dtype] += flops
            if dtype is torch.float32 and flops > self.largest.get(kind, (0, ()))[0]:
                self.largest[kind] = (flops, _shapes(operation, args))
        return result


def _float8_format(scale: torch.Tensor) -> str:
    """The scaling of an FP8 product, told by its first scale; one of exactly 1 leaves scaling to a later operation."""
    if scale.numel() > 1:
        return "float8-rowwise"
    return "float8" if scale.item() == 1 else "float8-tensorwise"


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
    with undisturbed(loop.model), _MatrixFlops() as seen, activation_bytes(loop.model) as saved:
        loop.model.train()
        batch, before = loop.data.first_part(), _generators(loop.device)
        loss = loop.forward(batch)[1]
        draws = any(not torch.equal(a, b) for a, b in zip(before, _generators(loop.device), strict=True))
        activations = saved()
        loss.backward()
    loop.optimizer.zero_grad(set_to_none=True)
    inner = {kind: canary(kind, shapes, loop.device) for kind, (_, shapes) in seen.largest.items()}
    flops: Counter[str] = Counter()
    for (kind, dtype), count in seen.flops.items():
        name = dtype if isinstance(dtype, str) else _NAMES.get(dtype, str(dtype))
        flops[inner.get(kind, "float32") if dtype is torch.float32 else name] += count
    return replace(judge(loop.precision, flops, activations), draws=draws)


def _generators(device: torch.device) -> list[torch.Tensor]:
    """The states of torch's generators that a forward may draw from."""
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_device]


def judge(precision: Precision, flops: Counter[str], activations: int = 0) -> Observation:
    """The effective precision of a step.

    Args:
        precision: what was asked for.
        flops: format (``float32``, ``tf32``, ``bfloat16``, ``float16``, ``float8-rowwise``, ...) -> matrix FLOPs.
        activations: bytes saved for backward.
    """
    flops = _scaled_later(flops)
    total = sum(flops.values())
    share = flops[precision.format] / total if total else math.nan
    effective = None
    if total:
        ran, most = flops.most_common(1)[0]
        # FP8 is for linear layers: attention and small layers are meant to stay in BF16.
        meant = flops["bfloat16"] if ran in _FLOAT8 and most / total >= FLOAT8_SHARE else 0
        if (most + meant) / total >= EFFECTIVE_SHARE:
            effective = _label(ran, precision)
    return Observation(effective, share, {name: count for name, count in flops.items() if count}, activations)


def _scaled_later(flops: Counter[str]) -> Counter[str]:
    """FP8 products whose scales are applied afterwards, as torchao's backward has it, under the step's only scaling."""
    scalings = [name for name in _FLOAT8 if flops[name]]
    if len(scalings) != 1:
        return flops
    return Counter({**flops, scalings[0]: flops[scalings[0]] + flops["float8"], "float8": 0})


def _label(ran: str, precision: Precision) -> str:
    if ran == precision.format:
        return precision.name
    if ran in _FLOAT8:
        return ran.replace("float8", "fp8")
    stored = "true" if precision.parameters == ran else "mixed"
    return {"float32": "fp32", "bfloat16": f"bf16-{stored}", "float16": f"fp16-{stored}"}.get(ran, ran)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
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
