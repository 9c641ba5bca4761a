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
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainables.build import build_observed, pick_device
from trainables.isolation import isolated
from trainables.ladder import LADDER
from trainables.loading import describe, load_function
from trainables.loop import Loop
from trainables.memory import is_out_of_memory, peak_memory_bytes, settle_process
from trainables.precision import device_name, numerics
from trainables.spec import TimingJob

MIN_STEPS, MIN_WINDOW_MS = 10, 50.0
"""A window's least number of timed steps, and its least length."""

WARMUP_STEPS = 5
CONTENDED_ABOVE = 0.1
"""Share of a window that a thread may wait for a processor; above, other work disturbed the window."""

PATIENCE = 3
"""Rounds are repeated until this many times the wanted ones have been run."""


@dataclass
class Arm:
    """One precision of a block and what was measured of it: a window's value is the median step time in it."""

    precision: str
    is_copy: bool
    loop: Loop = field(repr=False)
    effective_precision: str | None = None
    effective_share: float | None = None
    peak_memory_bytes: int | None = None
    window_ms: list[float] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """What the results keep of it."""
        return {
            "precision": self.precision,
            "is_copy": self.is_copy,
            "route": self.loop.route,
            "compiled": self.loop.is_compiled,
            "window_ms": self.window_ms,
            "effective_precision": self.effective_precision,
            "effective_share": self.effective_share,
            "init_digest": self.loop.init_digest,
            "data_digest": self.loop.data.digest(),
            "peak_memory_bytes": self.peak_memory_bytes,
        }


def time_block(job: TimingJob) -> dict[str, Any]:
    """Times the arms of a block against each other.

    Args:
        job: what to time; the device should be this process's alone.

    Returns:
        ``status``, ``status_reason``, ``device``, ``node``, ``contended``, ``batch_size`` and ``arms``.
    """
    record: dict[str, Any] = {"node": socket.gethostname(), "status": "completed", "status_reason": None, "arms": []}
    try:
        device = pick_device(job.trial.num_gpus)
        record["device"] = device_name(device)
        load_function(job.trial.task)
        trial, precisions = job.trial, [LADDER[name] for name in job.precisions]
        compile = any(trial.compiles(precision) for precision in precisions)
        with ExitStack() as stack:
            stack.enter_context(isolated(precisions[0], trial.seed, trial.num_threads, trial.task.directory, compile))
            names = arm_names(job.precisions, swapped=job.trial.seed % 2 == 1)
            arms = [_build(job, name, is_copy, device) for name, is_copy in names]
            record["contended"] = _run(arms, job.windows)
            record["arms"] = [arm.record() for arm in arms]
        record["batch_size"] = arms[0].loop.data.batch_size
    except (Exception, SystemExit) as error:
        record["status"] = "out_of_memory" if is_out_of_memory(error) else "errored"
        record["status_reason"] = describe(error)
    return record


def arm_names(precisions: Sequence[str], swapped: bool = False) -> list[tuple[str, bool]]:
    """Each precision, and a copy of the first at the other end: (name, whether it is the copy).

    Args:
        precisions: the baseline first.
        swapped: the copy comes first: what is built first may be a little slower, which must not always hit the same.
    """
    names = [(name, False) for name in precisions] + [(precisions[0], True)]
    return [names[-1], *names[1:-1], names[0]] if swapped else names


def is_contended(waited: Sequence[float | None]) -> bool | None:
    """Whether a round of windows shared the processor with other work; ``None`` where the system does not tell.

    Args:
        waited: share of each window in which a thread of this process was ready to run and was kept waiting.
    """
    known = [share for share in waited if share is not None]
    return any(share > CONTENDED_ABOVE for share in known) if known else None


def _build(job: TimingJob, name: str, is_copy: bool, device: torch.device) -> Arm:
    precision = LADDER[name]
    with numerics(precision):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # pragma: gpu
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        loop, observation = build_observed(job.arm(name), precision, device, num_steps=False)
        arm = Arm(name, is_copy, loop)
        arm.effective_precision = observation.effective
        arm.effective_share = observation.share if observation.flops else None
        arm.loop.train(WARMUP_STEPS)
        peak = peak_memory_bytes(arm.loop.model, arm.loop.optimizer, observation.activations, device)
        arm.peak_memory_bytes = peak - before
    return arm


def _run(arms: Sequence[Arm], windows: int) -> bool | None:
    """Windows in rounds, of as many steps in every arm, so that the arms see the same data.

    A round is every arm once, every second one in reverse (A B B A). A round that other work disturbed is run again, up
    to a limit beyond which the disturbed ones count, too.

    Returns:
        whether what was kept is contended; ``None`` where the system does not tell.
    """
    step_ms = min(_window(arm, MIN_STEPS)[0] for arm in arms)
    num_steps = max(MIN_STEPS, int(MIN_WINDOW_MS / step_ms) + 1)
    clean: list[dict[int, float]] = []
    every: list[dict[int, float]] = []
    contended: bool | None = None
    while len(clean) < windows and len(every) < PATIENCE * windows:
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
    losses = torch.zeros((), device=arm.loop.device)
    with numerics(arm.loop.precision):
        arm.loop.model.train()
        arm.loop.train_step(losses)
        clock = _CudaClock() if arm.loop.device.type == "cuda" else _HostClock()
        before = waiting_ns()
        clock.tick()
        for _ in range(num_steps):
            arm.loop.train_step(losses)
            clock.tick()
        times = clock.step_ms()
        after = waiting_ns()
    longest = max((after[thread] - before.get(thread, 0) for thread in after), default=None)
    return statistics.median(times), None if longest is None else longest / 1e6 / sum(times)


def waiting_ns() -> dict[str, int]:
    """Thread -> nanoseconds that it was ready to run while other work held the processors, since it began.

    Waiting for data, a lock or a device does not count. Empty where the system does not tell (Linux: ``schedstat``).
    """
    found = {}
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # threads come and go
            found[file.parent.name] = int(file.read_text().split()[1])
    return found


class _HostClock:
    """Wall time per step."""

    def __init__(self) -> None:
        self._ticks: list[float] = []

    def tick(self) -> None:
        self._ticks.append(time.perf_counter())

    def step_ms(self) -> list[float]:
        return [1e3 * (b - a) for a, b in zip(self._ticks, self._ticks[1:], strict=False)]


class _CudaClock(_HostClock):  # pragma: gpu
    """Device time per step, from events that the host does not wait for until the window ends."""

    def __init__(self) -> None:
        super().__init__()
        torch.cuda.synchronize()
        self._events: list[torch.cuda.Event] = []

    def tick(self) -> None:
        super().tick()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append(event)

    def step_ms(self) -> list[float]:
        self._events[-1].synchronize()
        pairs = zip(self._events, self._events[1:], strict=False)
        return [a.elapsed_time(b) for a, b in pairs]


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
