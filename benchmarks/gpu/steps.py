"""Training steps of a model in one precision by our loop, eager or compiled, and by the bare loop."""

import os
import statistics
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.bare import BARE, BareLoop
from benchmarks.gpu.models import SEED, Subject
from benchmarks.gpu.record import Row
from benchmarks.gpu.windows import Effort, Train, ratio, take_turns
from trainables.build import build_observed
from trainables.effective import Observation
from trainables.hyperparameters import Hyperparameters
from trainables.isolation import isolated, seed_everything
from trainables.ladder import Precision
from trainables.loading import build_task
from trainables.loop import Loop
from trainables.memory import peak_memory_bytes
from trainables.outputs import make_forward

OURS, BY_HAND = "ours", "bare"


@dataclass(frozen=True)
class Arm:
    """One way to run a model's steps.

    Args:
        subject: the model.
        precision: an entry of the ladder that the device supports.
        compiled: by ``torch.compile``.
        again: the baseline once more, at the end, to show drift.
    """

    subject: Subject
    precision: Precision
    compiled: bool = False
    again: bool = False

    @property
    def name(self) -> str:
        """As tables show it."""
        return self.precision.name + (" compiled" if self.compiled else "") + (" again" if self.again else "")


def measure_arm(arm: Arm, device: torch.device, effort: Effort, rate: float | None) -> tuple[Row, Loop]:
    """An arm's row, and its loop for a profile; the precision's globals must be in force (:func:`in_force`).

    Args:
        arm: what to run.
        device: where.
        effort: how much is measured.
        rate: of matrix products in the arm's format, FLOP/s.
    """
    spec = arm.subject.spec(arm.compiled)
    loop, observation = build_observed(spec, arm.precision, device, num_steps=False)
    row = Row(arm.subject.name, arm.name, effective=observation.effective, attention=attention_of(loop))
    row.flops_counted = sum(observation.flops.values())
    row.note = observation.mismatch(arm.precision)
    if row.note is not None:
        row.status = "precision_mismatch"
        return row, loop
    loop.train(effort.warm_up)
    row.allocated_bytes, row.reserved_bytes = _peak(loop, observation)
    contestants: dict[str, Train] = {OURS: loop.train}
    if arm.precision.name in BARE and not arm.compiled and not arm.again:
        contestants[BY_HAND] = bare_loop(arm, device).train
        contestants[BY_HAND](effort.warm_up)
    times = take_turns(contestants, device, effort)
    _fill(row, arm.subject, loop, times, rate)
    return row, loop


def in_force(arm: Arm) -> AbstractContextManager[Any]:
    """The arm's numerics, generators and one thread, for the compiler all; what stood before afterwards."""
    num_threads = len(os.sched_getaffinity(0)) if arm.compiled else 1
    return isolated(arm.precision, SEED, num_threads, compile=arm.compiled)


def bare_loop(arm: Arm, device: torch.device) -> BareLoop:
    """The bare loop on the same task, from the same state of the generators."""
    spec = arm.subject.spec()
    seed_everything(spec.seed)
    task = build_task(spec.task, spec.config)
    loop = BareLoop(task, Hyperparameters.of(spec.config), arm.precision, spec.seed, device)
    seed_everything(spec.seed)
    return loop


def _fill(row: Row, subject: Subject, loop: Loop, times: dict[str, list[float]], rate: float | None) -> None:
    """What follows from the times."""
    row.window_ms = times[OURS]
    row.step_ms = statistics.median(row.window_ms)
    row.tokens_per_s = 1e3 * subject.tokens / row.step_ms
    row.flops_per_s = 1e3 * subject.step_flops(loop.model) / row.step_ms
    row.of_matrix_rate = row.flops_per_s / rate if rate else None
    row.against_bare = ratio(times[OURS], times[BY_HAND]) if BY_HAND in times else None


def _peak(loop: Loop, observation: Observation) -> tuple[int, int | None]:
    """Bytes allocated and reserved at the peak of two steps of a warm loop; none are reserved on the CPU."""
    on_gpu = loop.device.type == "cuda"
    if on_gpu:  # what observing took is no part of a step
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(loop.device)
    loop.train(2)
    allocated = peak_memory_bytes(loop.model, loop.optimizer, observation.activations, loop.device)
    return allocated, torch.cuda.max_memory_reserved(loop.device) if on_gpu else None


class _Attention(TorchDispatchMode):
    """Notes which operations compute attention."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func._overloadpacket)
        if "attention" in name:
            self.seen.add(name.removeprefix("aten.").removeprefix("_scaled_dot_product_").removesuffix("_for_cpu"))
        return func(*args, **(kwargs or {}))


def attention_of(loop: Loop) -> str | None:
    """The fused operations that compute a model's attention, such as ``flash_attention``; ``None`` without any."""
    forward = make_forward(loop.model)  # the eager one: what dispatch is watching is never compiled again
    with _Attention() as mode, loop.autocast:
        forward(loop.data.first_part())
    return ", ".join(sorted(mode.seen)) or None
