"""A few steps of each precision on the real task: is it supported, what does it run in, how long does a step take."""

import socket
import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from trainables.build import build_observed, make_evaluator, pick_device
from trainables.compiler import CompileError
from trainables.contention import waiting_ns
from trainables.effective import Observation
from trainables.isolation import isolated
from trainables.kernels import serving_kernel
from trainables.ladder import LADDER, Precision
from trainables.loading import TaskError, describe, load_function
from trainables.loop import Loop
from trainables.meeting import Meeting, WorkerLost
from trainables.memory import is_out_of_memory, peak_memory_bytes, release_memory
from trainables.precision import device_name, put_in_force, unsupported_reason
from trainables.routes import DEFAULT, join, options_for, options_in
from trainables.spec import TrialSpec
from trainables.team import meet

HOPELESS = 5.0
"""A precision is left out when a step takes more than this many times the first supported precision's."""

LOOK_AGAIN = 5
"""Steps that are timed again before a precision is left out for its time."""

MAX_STEPS, MAX_MS = 100, 200.0
"""Timed steps of a precision end at whichever comes first."""

ROUNDS, TIE = 2, 1.03
"""Two routes are compared in so many rounds of short windows, one, the other, the other, the one; less than 3 % more
time is a tie."""


@dataclass(frozen=True)
class ProbeResult:
    """What the probe found for one precision on one device.

    Args:
        precision: the ladder's name.
        status: ``completed``, ``unsupported``, ``excluded`` (hopelessly slow), ``precision_mismatch``,
            ``out_of_memory`` or ``errored``.
        status_reason: one sentence for any status but ``completed``.
        effective_precision, effective_share: what a step really ran in.
        route: the fastest kernel route, which trials in this precision are to take.
        kernel: the library and kernel that serve most of its products, where they tell.
        compiled: whether its steps ran compiled; false where that failed.
        step_ms: median time of a step; ``fastest_ms``: of the fastest; ``default_ms``: median by the default route.
        samples_per_s: training examples per second at that time.
        peak_memory_bytes: of a training step.
        init_digest: fingerprint of the initial weights.
        metrics: names of the task's metrics, as columns (``val_...``); none where only a report will tell.
        remarks: the task's own.
        device, node: where it ran.
    """

    precision: str
    status: str
    status_reason: str | None = None
    effective_precision: str | None = None
    effective_share: float | None = None
    route: str | None = None
    kernel: str | None = None
    compiled: bool | None = None
    step_ms: float | None = None
    default_ms: float | None = None
    fastest_ms: float | None = None
    samples_per_s: float | None = None
    peak_memory_bytes: int | None = None
    init_digest: str | None = None
    metrics: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    device: str | None = None
    node: str | None = None

    @property
    def is_usable(self) -> bool:
        """Whether trials may run in this precision."""
        return self.status == "completed"


def probe(
    spec: TrialSpec, precisions: Sequence[str], route: str | None = None, meeting: Meeting | None = None
) -> Iterator[ProbeResult]:
    """Probes precisions one after the other, the first supported one being what the others are compared with.

    Args:
        spec: a trial on the real task; its precision, route and budget are not used.
        precisions: names of the ladder, baselines first.
        route: the one to take; ``None`` takes the fastest in each precision.
        meeting: where the trial's workers meet, each of which probes; ``None`` where it has one.

    Yields:
        a result for each, as soon as it is known.

    Raises:
        TaskError: the task cannot be built.
        WorkerLost: another worker went away.
    """
    device = pick_device(spec.num_gpus)
    baseline_ms: float | None = None
    first_digest: str | None = None
    for name in precisions:
        precision = LADDER[name]
        where: dict[str, Any] = {"device": device_name(device), "node": socket.gethostname()}
        reason = unsupported_reason(precision, device)
        if reason is not None:
            yield ProbeResult(name, "unsupported", reason, **where)
            continue
        # Anew for each: workers that failed in one precision are not in step any more.
        at = None if meeting is None else replace(meeting, name=f"{meeting.name}/{name}")
        result = replace(_probe_one(spec, precision, device, baseline_ms, route, at), **where)
        baseline_ms = baseline_ms or (result.fastest_ms if result.is_usable else None)
        first_digest = first_digest or result.init_digest
        if result.init_digest not in (None, first_digest):
            raise TaskError(
                f"task: {spec.task.name} must give the same initial weights for the same seed, but two builds differ; "
                "make the model anew in each call, with torch's generator alone"
            )
        yield result


def _probe_one(
    spec: TrialSpec,
    precision: Precision,
    device: torch.device,
    baseline_ms: float | None,
    route: str | None,
    meeting: Meeting | None,
) -> ProbeResult:
    try:
        load_function(spec.task)
        with (
            meet(meeting, device) as team,
            isolated(precision, spec.seed, spec.num_threads, spec.task.directory, spec.compiles(precision)),
        ):
            spec = replace(spec, route=route or DEFAULT)
            loop, observation = build_observed(spec, precision, device, num_steps=False, team=team)
            metrics = _check_evaluation(loop)  # what fails in evaluation, too, is to be known now
            loop.train(1)
            found = _result(loop, observation, metrics, _step_times_ms(loop, MAX_MS), baseline_ms)
            if route is None and found.is_usable:
                loop, found = _fastest(spec, loop, observation.kinds, found)
            kernel = serving_kernel(lambda: loop.train(1), device) if found.is_usable else None
            return replace(found, kernel=kernel)
    except (TaskError, WorkerLost):
        raise
    except (Exception, SystemExit) as error:
        status = "out_of_memory" if is_out_of_memory(error) else "errored"
        compiled = False if isinstance(error, CompileError) else None
        return ProbeResult(precision.name, status, describe(error), compiled=compiled)
    finally:
        release_memory(device)


def _fastest(spec: TrialSpec, loop: Loop, kinds: Collection[str], found: ProbeResult) -> tuple[Loop, ProbeResult]:
    """The loop and result by the fastest route: each option is kept if it makes what was kept before it faster.

    Args:
        spec: what ``loop`` was built from.
        loop: by the default route, in training.
        kinds: of its products.
        found: its result.
    """
    for option in options_for(loop.model, loop.precision, loop.device, kinds):
        route = join([*options_in(loop.route), option])
        try:
            put_in_force(loop.precision, route)
            loop, found = _faster(spec, loop, route, found)
        except Exception:  # a route that fails is none; what the task does wrong on the default one is known by now
            if loop.team.size > 1:
                raise  # its workers are not in step any more
    put_in_force(loop.precision, loop.route)
    return loop, found


def _faster(spec: TrialSpec, loop: Loop, route: str, found: ProbeResult) -> tuple[Loop, ProbeResult]:
    """The loop and result by another route; those at hand where it cannot be taken, or is slower.

    A tie goes to the other route, so that most runs of a sweep take the same: where it is advised, it is rarely a
    little slower and often much faster.
    """
    other, observation = build_observed(replace(spec, route=route), loop.precision, loop.device, False, loop.team)
    if other.route != route:
        return loop, found
    metrics = _check_evaluation(other)
    if other.train(1).num_nonfinite:
        return loop, found
    times_ms: dict[Loop, list[float]] = {loop: [], other: []}
    for each in (loop, other, other, loop) * ROUNDS:
        put_in_force(each.precision, each.route)
        times_ms[each] += _step_times_ms(each, MAX_MS / 4)
    before_ms, after_ms = (statistics.median(times) for times in times_ms.values())
    default_ms = before_ms if loop.route == DEFAULT else found.default_ms
    if after_ms < TIE * before_ms:
        faster = _result(other, observation, metrics, times_ms[other], None)
        # On a GPU the peak since the probe began is that of both loops.
        return other, replace(faster, peak_memory_bytes=found.peak_memory_bytes, default_ms=default_ms)
    return loop, replace(found, default_ms=default_ms)


def _check_evaluation(loop: Loop) -> tuple[str, ...]:
    """Evaluates a little, and gives the names of the metrics."""
    evaluator = make_evaluator(loop)
    evaluator.evaluate(max_batches=1)
    return tuple(evaluator.names)


def _result(
    loop: Loop, observation: Observation, metrics: tuple[str, ...], times_ms: list[float], baseline_ms: float | None
) -> ProbeResult:
    step_ms = statistics.median(times_ms)
    found: dict[str, Any] = {
        "effective_precision": observation.effective,
        "effective_share": observation.share if observation.flops else None,
        "route": loop.route,
        "compiled": loop.is_compiled,
        "step_ms": step_ms,
        "fastest_ms": min(times_ms),
        "samples_per_s": 1e3 * loop.data.batch_size / step_ms,
        "peak_memory_bytes": peak_memory_bytes(loop.model, loop.optimizer, observation.activations, loop.device),
        "metrics": metrics,
        "remarks": loop.remarks,
        "init_digest": loop.init_digest,
    }
    name = loop.precision.name
    mismatch = observation.mismatch(loop.precision)
    if mismatch is not None and observation.is_told:
        return ProbeResult(name, "precision_mismatch", mismatch, **found)
    # The fastest step: other work on the machine can make any other of them slow.
    fastest_ms = min(times_ms)
    if baseline_ms is not None and fastest_ms > HOPELESS * baseline_ms:
        fastest_ms = min(fastest_ms, _own_ms(loop))
    if baseline_ms is not None and fastest_ms > HOPELESS * baseline_ms:
        slower = fastest_ms / baseline_ms
        reason = f"a step takes at least {fastest_ms:.3g} ms, {slower:.3g} times the baseline's; limit {HOPELESS:g}"
        return ProbeResult(name, "excluded", reason, **found)
    return ProbeResult(name, "completed", **found)


def _step_times_ms(loop: Loop, max_ms: float) -> list[float]:
    """Times of single steps of a loop that is warm."""
    times: list[float] = []
    while loop.team.agree(len(times) < MAX_STEPS and sum(times) < max_ms):
        started = time.perf_counter()
        train_s = loop.train(1).train_s
        times.append(1e3 * (time.perf_counter() - started if train_s is None else train_s))
    return loop.team.agree(times)


def _own_ms(loop: Loop) -> float:
    """The fastest of a few steps more, without what its threads waited while other work held the processors."""
    found = []
    for _ in range(LOOK_AGAIN):
        before, started = waiting_ns(), time.perf_counter()
        loop.train(1)
        elapsed_ms, after = 1e3 * (time.perf_counter() - started), waiting_ns()
        waited_ns = max((after[thread] - before.get(thread, 0) for thread in after), default=0)
        found.append(elapsed_ms - waited_ns / 1e6)
    return loop.team.agree(min(found))
