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
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type
from torch.utils.flop_counter import flop_registry

from trainables.canary import canary
from trainables.ladder import Precision
from trainables.loop import Loop
from trainables.memory import activation_bytes
from trainables.state import read_state, watch_forward

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
        kinds: of its matrix products: ``"matmul"``, ``"conv"``, ``"rnn"``.
        fault: why the state that it ran in is not the precision's, in a clause; ``None`` where it is.
        attention: kernels of fused attention, such as ``flash``; ``None`` where the model calls none.
    """

    effective: str | None
    share: float
    flops: dict[str, int]
    activations: int
    draws: bool = False
    kinds: frozenset[str] = frozenset()
    fault: str | None = None
    attention: str | None = None

    @property
    def is_told(self) -> bool:
        """Whether it says what ran, be it right or wrong."""
        return bool(self.flops) or self.fault is not None

    @property
    def step_flops(self) -> int | None:
        """Matrix FLOPs of the step in all formats; ``None`` where none were seen."""
        return sum(self.flops.values()) or None

    def mismatch(self, precision: Precision) -> str | None:
        """Why this is not the precision that was asked for, in one sentence; ``None`` if it is."""
        if self.fault is not None:
            return f"asked for {precision.name}, but {self.fault}"
        if self.effective == precision.name:
            return None
        total = sum(self.flops.values())
        if not total:
            return f"no matrix product was seen, so {precision.name} could not be observed"
        ran = ", ".join(f"{flops / total:.0%} {name}" for name, flops in Counter(self.flops).most_common())
        return f"asked for {precision.name}, but the step's matrix FLOPs ran as {ran}"


Product: TypeAlias = tuple[str, str, tuple[Any, ...], str]
"""Kind and format of a matrix product; of FP32 alone, its shapes and the setting that may narrow it, as it was then."""


class _MatrixFlops(TorchDispatchMode):
    """Counts matrix FLOPs by product."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: Counter[Product] = Counter()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: keeping ``torch.compile`` out of what it never sees imports all of it, which takes as long as PyTorch."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(is_traceable_wrapper_subclass_type(kind) for kind in types):
            # What torchao wraps claims its old dtype; the products that it comes down to are seen here, too.
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        operation = str(func._overloadpacket).removesuffix("_for_cpu").replace("_for_cpu_backward", "_backward")
        count = _FLOP_FORMULAS.get(operation)
        if count is not None:
            flops = int(count(*args, **(kwargs or {}), out_val=result))
            kind = next((kind for kind in ("conv", "rnn") if kind in operation), "matmul")
            operand = [a for a in args if isinstance(a, torch.Tensor)][1]
            fp32 = operand.dtype is torch.float32
            how = (_shapes(operation, args), _setting(kind, operand.device)) if fp32 else ((), "")
            ran = _float8_format(args[2]) if operation == "aten._scaled_mm" else _name(operand.dtype)
            self.flops[kind, ran, *how] += flops
        return result


def _name(dtype: torch.dtype) -> str:
    return _NAMES.get(dtype, str(dtype))


def _backend(device: torch.device) -> str:
    return "cuda" if device.type == "cuda" else "mkldnn"


def _setting(kind: str, device: torch.device) -> str:
    """How FP32 products of a kind may be narrowed at this moment: a library may change it around its own calls."""
    return str(torch._C._get_fp32_precision_getter(_backend(device), kind))


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
        steps = (tuple(stride), tuple(padding), tuple(dilation))
        return tuple(image.shape), tuple(weight.shape), layout, *steps, transposed, groups
    operands = [a.shape for a in args if isinstance(a, torch.Tensor) and a.dim() >= 2][-2:]
    return operands[0][-2], operands[0][-1], operands[-1][-1]


def observe(loop: Loop) -> Observation:
    """Runs forward and backward once on the first micro-batch and leaves the loop as it was.

    A state that is not the precision's makes it effective in nothing, whatever its products ran in, and is told even
    where the step fails for it.

    Args:
        loop: before or during training, its precision's numerics in force.
    """
    before = read_state(loop).fault(loop.precision)
    try:
        with watch_forward(loop) as seen:
            found = _observe_step(loop)
        fault = read_state(loop).fault(loop.precision) or seen.fault(loop)
    except Exception:
        if before is None:
            raise
        return Observation(None, math.nan, {}, 0, fault=before)
    finally:
        loop.optimizer.zero_grad(set_to_none=True)
    effective = None if fault and found.effective == loop.precision.name else found.effective
    return replace(found, effective=effective, fault=fault, attention=" ".join(sorted(seen.attention)) or None)


def _observe_step(loop: Loop) -> Observation:
    """What its products ran in, and what it saved; the gradients stay."""
    with undisturbed(loop.model), _MatrixFlops() as seen, activation_bytes(loop.model) as saved:
        loop.model.train()
        batch, before = loop.data.first_part(), _generators(loop.device)
        loss = loop.forward(batch)[1]
        draws = any(not torch.equal(a, b) for a, b in zip(before, _generators(loop.device), strict=True))
        activations = saved()
        loss.backward()
    kinds = frozenset(kind for kind, *_ in seen.flops)
    return replace(judge(loop.precision, _by_format(seen.flops, loop.device), activations), draws=draws, kinds=kinds)


def _by_format(products: Counter[Product], device: torch.device) -> Counter[str]:
    """FLOPs by the format that they ran in.

    A canary of every shape: a library may pick one kernel for large products and another, in another format, for small
    ones.
    """
    flops: Counter[str] = Counter()
    for (kind, ran, shapes, setting), count in products.items():
        if shapes:
            with _as_it_was(kind, setting, device):
                ran = canary(kind, shapes, device)
        flops[ran] += count
    return flops


@contextmanager
def _as_it_was(kind: str, setting: str, device: torch.device) -> Iterator[None]:
    key = (_backend(device), kind)
    before = torch._C._get_fp32_precision_getter(*key)
    try:
        if setting != before:
            torch._C._set_fp32_precision_setter(*key, setting)
        yield
    finally:
        if setting != before:
            torch._C._set_fp32_precision_setter(*key, before)


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
