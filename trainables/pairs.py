"""Arms timed against each other on one device: windows of steps in A B B A order, each pair in a process of its own.

    python -m trainables.pairs

reads jobs (JSON lines of :class:`trainables.spec.TimingJob`) from standard input and writes a JSON line for each. Every
job runs in a fork of a process that has imported PyTorch and done nothing else: as clean as a new process, without the
seconds that one takes to start.
"""

import json
import os
import socket
import statistics
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from trainables.build import build_observed, pick_device
from trainables.clocks import CudaClock, HostClock
from trainables.contention import Neighbours, OtherWork, is_contended, waiting_ns
from trainables.effective import Observation, observe_again
from trainables.gpu_state import GpuState, GpuWatch, summarise
from trainables.isolation import isolated
from trainables.kernels import serving_kernel
from trainables.ladder import LADDER
from trainables.loading import describe, load_function
from trainables.loop import Loop
from trainables.meeting import WorkerLost
from trainables.memory import ArmMemory, is_out_of_memory, settle_process
from trainables.precision import device_name, numerics
from trainables.routes import DEFAULT
from trainables.spec import TimingJob
from trainables.tally import Tally
from trainables.team import Team, meet

MIN_STEPS, MIN_WINDOW_MS = 10, 50.0
"""A window's least number of timed steps, and its least length."""

WARMUP_STEPS = 5
PATIENCE = 3
"""Rounds are repeated, up to this many times the wanted ones in all, while enough of them may still be clean."""


class Name(NamedTuple):
    """Which arm of a block: a precision, the baseline's copy, or the baseline by PyTorch's default kernels."""

    precision: str
    is_copy: bool = False
    is_default: bool = False


@dataclass
class Arm:
    """One arm of a block and what was measured of it: a window's value is the median step time in it.

    ``first`` and ``last`` are what a step did before its first step and after its last: it ran in what was seen last.
    """

    name: Name
    loop: Loop = field(repr=False)
    first: Observation = field(repr=False)
    last: Observation = field(repr=False)
    kernel: str | None = None
    peak_memory_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    window_ms: list[float] = field(default_factory=list)
    waited: list[float | None] = field(default_factory=list)
    cpus_used: list[float] = field(default_factory=list)
    gpu: GpuWatch | None = field(default=None, repr=False)
    gpu_states: list[GpuState] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """What the results keep of it."""
        return {
            **self.name._asdict(),
            "route": self.loop.route,
            "kernel": self.kernel,
            "compiled": self.loop.is_compiled,
            "window_ms": self.window_ms,
            "effective_precision": self.last.effective,
            "effective_share": self.last.share if self.last.flops else None,
            "step_flops": self.first.step_flops,
            "attention": self.first.attention,
            "init_digest": self.loop.init_digest,
            "data_digest": self.loop.data.digest(),
            "peak_memory_bytes": self.peak_memory_bytes,
            "peak_reserved_bytes": self.peak_reserved_bytes,
            "cpus_used": statistics.median(self.cpus_used) if self.cpus_used else None,
            **summarise(self.gpu_states),
        }


def time_block(job: TimingJob) -> dict[str, Any]:
    """Times the arms of a block against each other.

    Args:
        job: what to time; the device should be this process's alone.

    Returns:
        ``status``, ``status_reason``, ``device``, ``node``, ``contended``, ``contention`` (by what, in words),
        ``batch_size`` and ``arms``.
    """
    record: dict[str, Any] = {"node": socket.gethostname(), "status": "completed", "status_reason": None, "arms": []}
    try:
        device = pick_device(job.trial.num_gpus)
        record["device"] = device_name(device)
        load_function(job.trial.task)
        trial, precisions = job.trial, [LADDER[name] for name in job.precisions]
        compile = any(trial.compiles(precision) for precision in precisions)
        with ExitStack() as stack:
            team = stack.enter_context(meet(job.meeting, device))
            stack.enter_context(isolated(precisions[0], trial.seed, trial.num_threads, trial.task.directory, compile))
            arms = [_build(job, name, device, team) for name in arm_names(job)]
            record["contended"], record["contention"] = _timed(arms, job.windows, device)
            for arm in arms:
                with numerics(arm.loop.precision, arm.loop.route):
                    arm.last = observe_again(arm.loop, arm.first)
            record["arms"] = [arm.record() for arm in arms]
        record["batch_size"] = arms[0].loop.data.batch_size
    except (Exception, SystemExit) as error:
        lost = "lost" if isinstance(error, WorkerLost) else "errored"
        record["status"] = "out_of_memory" if is_out_of_memory(error) else lost
        record["status_reason"] = describe(error)
    return record


def arm_names(job: TimingJob) -> list[Name]:
    """Each precision, the baseline by default where its route is another, and the baseline's copy at the other end.

    With every second seed the copy comes first: what is built first may be a little slower, which must not always hit
    the same.

    Args:
        job: its first precision is the baseline.
    """
    baseline, *others = job.precisions
    by_default = [Name(baseline, is_default=True)] if job.arm(baseline).route != DEFAULT else []
    names = [Name(baseline), *map(Name, others), *by_default, Name(baseline, is_copy=True)]
    return [names[-1], *names[1:-1], names[0]] if job.trial.seed % 2 else names


def _build(job: TimingJob, name: Name, device: torch.device, team: Team) -> Arm:
    precision = LADDER[name.precision]
    with numerics(precision):
        memory = ArmMemory(device)
        spec = job.arm(name.precision, name.is_default)
        loop, observation = build_observed(spec, precision, device, num_steps=False, team=team)
        arm = Arm(name, loop, observation, observation)
        memory.restart()
        arm.loop.train(WARMUP_STEPS)
        peaks = memory.read(arm.loop.model, arm.loop.optimizer, observation.activations)
        arm.peak_memory_bytes, arm.peak_reserved_bytes = peaks
        arm.kernel = serving_kernel(lambda: loop.train(1), device)
    return arm


def _timed(arms: Sequence[Arm], windows: int, device: torch.device) -> tuple[bool | None, str | None]:
    """Times the arms; whether other work disturbed them, and which."""
    gpu = GpuWatch.of(device)
    for arm in arms:
        arm.gpu = gpu
    team = arms[0].loop.team
    own = [pid for host, pid in team.gather((socket.gethostname(), os.getpid())) if host == socket.gethostname()]
    neighbours = Neighbours(gpu, own)
    contended = _run(arms, windows)
    reason = neighbours.reason(contended, [share for arm in arms for share in arm.waited])
    return True if reason is not None else contended, reason


def _run(arms: Sequence[Arm], windows: int) -> bool | None:
    """Windows in rounds, of as many steps in every arm, so that the arms see the same data.

    A round is every arm once, every second one in reverse (A B B A). A round that other work disturbed is run again, up
    to a limit; once that leaves no room for enough clean ones, the disturbed ones count, too.

    Returns:
        whether what was kept is contended; ``None`` where the system does not tell.
    """
    step_ms = min(_window(arm, MIN_STEPS)[0] for arm in arms)
    num_steps = max(MIN_STEPS, int(MIN_WINDOW_MS / step_ms) + 1)
    clean: list[dict[int, float]] = []
    every: list[dict[int, float]] = []
    contended: bool | None = None
    while len(clean) < windows <= len(clean) + PATIENCE * windows - len(every):
        order = range(len(arms)) if len(clean) % 2 == 0 else reversed(range(len(arms)))
        found = {index: _window(arms[index], num_steps) for index in order}
        every.append({index: milliseconds for index, (milliseconds, _) in found.items()})
        contended = is_contended([waited for _, waited in found.values()])
        if not contended:
            clean.append(every[-1])
    enough = len(clean) >= windows
    for measured in clean if enough else every:
        for index, milliseconds in measured.items():
            arms[index].window_ms.append(milliseconds)
    return contended if enough else True


def _window(arm: Arm, num_steps: int) -> tuple[float, float | None]:
    """Median step time of a window in ms, without its first step, which still warms the caches; the share waited."""
    tally = Tally(arm.loop.device)
    with numerics(arm.loop.precision, arm.loop.route):
        arm.loop.model.train()
        arm.loop.train_step(tally)
        clock = CudaClock() if arm.loop.device.type == "cuda" else HostClock()
        others = OtherWork(arm.loop.team)
        before, processor_s, started = waiting_ns(), time.process_time(), time.perf_counter()
        clock.tick()
        arm.loop.train_steps(num_steps, tally, clock)
        if arm.gpu is not None:
            arm.gpu_states.append(arm.gpu.look())  # it is still at what was asked of it
        times = clock.step_ms()
        processor_s, wall_s = time.process_time() - processor_s, time.perf_counter() - started
        after = waiting_ns()
    longest = max((after[thread] - before.get(thread, 0) for thread in after), default=None)
    waited = None if longest is None else min(1.0, longest / 1e9 / wall_s)
    waited, median_ms = others.waited(waited), arm.loop.team.agree(statistics.median(times))
    arm.waited.append(waited)
    arm.cpus_used.append(processor_s / wall_s)
    return median_ms, waited


def serve() -> None:
    """Answers jobs until standard input ends, each in a fork."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    jobs = os.fdopen(os.dup(0))
    os.dup2(2, 1)  # whatever the task prints must not get among the answers
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # and it must not read the jobs
    settle_process()  # the forks share what is imported here
    for line in jobs:
        print(json.dumps(_in_a_fork(line)), file=answers, flush=True)


def _in_a_fork(line: str) -> dict[str, Any]:
    """A job's record, or one that says how its process died without giving one."""
    with tempfile.TemporaryFile("w+") as answer:
        child = os.fork()
        if child == 0:
            try:
                json.dump(_finite(time_block(TimingJob.from_json(line))), answer)
                answer.flush()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answer.seek(0)
        try:
            return dict(json.load(answer))
        except ValueError:
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}, without an answer"
            reason = f"the timing process ended {how}"
            return {"status": "errored", "status_reason": reason, "arms": [], "node": socket.gethostname()}


def _finite(record: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and v != v else v for k, v in record.items()}


if __name__ == "__main__":
    serve()
