"""The precision that a step's arithmetic really ran in, observed by dispatch and by a numeric canary, never from flags.

The state that a step ran in must be the precision's as well: see :mod:`trainables.state`.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from trainables.ladder import Precision
from trainables.loading import describe
from trainables.loop import Loop
from trainables.memory import activation_bytes, is_out_of_memory
from trainables.products import UNKNOWN, MatrixFlops
from trainables.state import read_state, watch_forward
from trainables.task import Batch

EFFECTIVE_SHARE = 0.9
"""Share of a step's matrix FLOPs that must have run in a precision's format for it to be effective."""

FLOAT8_SHARE = 0.5
"""Share that must have run in FP8 for an FP8 precision to be effective; with BF16's it must reach the above."""

_FLOAT8 = ("float8-tensorwise", "float8-rowwise")


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
        if not self.is_told:
            return f"no matrix product was seen, so {precision.name} could not be observed"
        deviation = self.deviation(precision)
        return None if deviation is None else f"asked for {precision.name}, but {deviation}"

    def deviation(self, precision: Precision) -> str | None:
        """What is not as in the precision that was asked for, in one clause; ``None`` if all is, or nothing is told."""
        if self.fault is not None or self.effective == precision.name or not self.flops:
            return self.fault
        total = sum(self.flops.values())
        ran = ", ".join(f"{flops / total:.0%} {name}" for name, flops in Counter(self.flops).most_common())
        return f"the step's matrix FLOPs ran as {ran}"


@runtime_checkable
class ObservesItself(Protocol):
    """A loop of which nothing but its own next step can be observed."""

    def observe(self) -> Observation:
        """What that step does."""

    def latest(self) -> Observation:
        """What was observed of it so far."""


def observe(loop: Loop) -> Observation:
    """Runs forward and backward once on the first micro-batch and leaves the loop as it was.

    A state that is not the precision's makes it effective in nothing, whatever its products ran in, and is told even
    where the step fails for it.

    Args:
        loop: before or during training, its precision's numerics in force.
    """
    if isinstance(loop, ObservesItself):
        return loop.observe()
    return _observe_on(loop, loop.data.first_part)


def observe_again(loop: Loop, first: Observation) -> Observation:
    """What a step at the end of training does, on the last micro-batch of an epoch; leaves the loop as it was.

    A model may compute otherwise by then. It is called eagerly, also where its steps run compiled: what runs inside of
    compiled code, no dispatch sees. So a change that compiled code alone makes stays unseen, as does one that a model
    takes back before the end.

    Args:
        loop: after its last step, its precision's numerics in force.
        first: what was observed before training; stands where memory does not suffice to look again. Where the step
            fails otherwise, nothing is known.
    """
    try:
        if isinstance(loop, ObservesItself):
            return loop.observe()
        with loop.eagerly():
            return _observe_on(loop, loop.data.last_part)
    except Exception as error:
        if loop.is_sharded:
            raise  # its workers are not in step any more
        warnings.warn(f"the last step's precision could not be observed: {describe(error)}", stacklevel=2)
        return first if is_out_of_memory(error) else replace(first, effective=None, share=math.nan, flops={})


def _observe_on(loop: Loop, draw: Callable[[], Batch]) -> Observation:
    before = read_state(loop).fault(loop.precision)
    try:
        with watch_forward(loop) as seen:
            found = _observe_step(loop, draw)
        fault = read_state(loop).fault(loop.precision) or seen.fault(loop)
    except Exception:
        if before is None:
            raise
        return Observation(None, math.nan, {}, 0, fault=before)
    finally:
        loop.optimizer.zero_grad(set_to_none=True)
    effective = None if fault and found.effective == loop.precision.name else found.effective
    return replace(found, effective=effective, fault=fault, attention=" ".join(sorted(seen.attention)) or None)


def _observe_step(loop: Loop, draw: Callable[[], Batch]) -> Observation:
    """What its products ran in, and what it saved; the gradients stay."""
    with undisturbed(loop.model), MatrixFlops() as seen, activation_bytes(loop.model) as saved:
        loop.model.train()
        batch, before = draw(), generators(loop.device)
        loss = loop.forward(batch)[1]
        draws = any(not torch.equal(a, b) for a, b in zip(before, generators(loop.device), strict=True))
        activations = saved()
        loss.backward()
    return replace(judge(loop.precision, seen.by_format(loop.device), activations), draws=draws, kinds=seen.kinds)


def observe_call(call: Callable[[], object], precision: Precision, device: torch.device) -> Observation:
    """What a call's arithmetic runs in, such as that of a forward pass alone.

    Args:
        call: called once.
        precision: what was asked for, its numerics in force.
        device: where it runs.
    """
    with MatrixFlops() as seen:
        call()
    return judge(precision, seen.by_format(device))


def generators(device: torch.device) -> list[torch.Tensor]:
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
    unknown = flops[UNKNOWN]
    if unknown:
        best = judge(precision, Counter({**flops, precision.format: flops[precision.format] + unknown, UNKNOWN: 0}))
        worst = judge(precision, Counter({**flops, UNKNOWN: 0, "another format": unknown}))
        if best.effective == precision.name != worst.effective:
            return Observation(None, math.nan, {}, activations)  # it depends on what is not known
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
    return precision.name if ran == precision.format else precision_name(ran, precision.parameters)


def precision_name(ran: str, parameters: str) -> str:
    """The ladder's name for products in one format with parameters in another; a format without one keeps its own."""
    if ran in _FLOAT8:
        return ran.replace("float8", "fp8")
    stored = "true" if parameters == ran else "mixed"
    return {"float32": "fp32", "bfloat16": f"bf16-{stored}", "float16": f"fp16-{stored}"}.get(ran, ran)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Puts back the buffers (such as BatchNorm's running statistics) and the generators that a step moves."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = [torch.cuda.current_device()] if next(model.parameters()).is_cuda else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                # What a step makes or enlarges, as a cache of masks, stays.
                if name in buffers and buffers[name].shape == buffer.shape:
                    buffer.copy_(buffers[name])
