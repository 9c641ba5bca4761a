"""One trial from beginning to end: a generator of reports that never raises for what the trial itself does wrong."""

import copy
import math
import socket
import statistics
import time
from collections.abc import Iterator

import torch

from trainables.effective import Observation, observe
from trainables.evaluation import Evaluator, extremes
from trainables.isolation import isolated, seed_everything
from trainables.ladder import Precision
from trainables.loading import build_task, describe, load_function
from trainables.loop import Loop, Progress
from trainables.memory import is_out_of_memory, peak_memory_bytes, release_memory
from trainables.precision import device_name, lookup, unsupported_reason
from trainables.report import TrialReport
from trainables.spec import TrialSpec
from trainables.task import Hyperparameters


def pick_device(num_gpus: float) -> torch.device:
    """The device of a trial: the first visible GPU where it was given one, else the CPU.

    Raises:
        RuntimeError: a GPU was given, but PyTorch sees none.
    """
    if num_gpus <= 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"gpus_per_trial is {num_gpus}, but PyTorch sees no GPU here; install its CUDA build or use 0"
        )
    return torch.device("cuda", 0)


def build_loop(spec: TrialSpec, precision: Precision, device: torch.device, num_steps: bool = True) -> Loop:
    """A trial's loop, the same for every precision up to the precision itself.

    Args:
        spec: what to build; every generator is seeded with its seed before the task is built, and again after.
        precision: whose numerics are in force.
        device: where it trains.
        num_steps: whether the schedule spans the spec's budget, or stays at its start.
    """
    seed_everything(spec.seed)
    task = build_task(spec.task, spec.config)
    hyper = Hyperparameters.of(spec.config)
    batch_size = min(hyper.batch_size, len(task.train_set))  # type: ignore[arg-type]
    steps_per_epoch = len(task.train_set) // batch_size  # type: ignore[arg-type]
    loop = Loop(
        task, hyper, precision, spec.seed, device, spec.budget.num_steps(steps_per_epoch) if num_steps else None
    )
    seed_everything(spec.seed)  # dropout must not depend on how much building drew
    return loop


def run_trial(spec: TrialSpec) -> Iterator[TrialReport]:
    """Trains, evaluates and reports until the budget is spent or the trial fails.

    Args:
        spec: what to run.

    Yields:
        a report after every interval; the last one has a status other than ``running``. What fails is its status and
        reason.
    """
    report = TrialReport(spec.trial_id, node=socket.gethostname())
    started = time.perf_counter()
    device: torch.device | None = None
    try:
        device = pick_device(spec.num_gpus)
        report.device = device_name(device)
        precision = lookup(spec.precision)
        load_function(spec.task)  # its module runs once a process, so before any trial's own state is set
        with isolated(precision, spec.seed, spec.num_threads, spec.task.directory):
            for _ in _train(spec, precision, device, report):
                report.wall_s = time.perf_counter() - started
                yield copy.deepcopy(report)
    except (Exception, SystemExit) as error:
        report.status = "out_of_memory" if is_out_of_memory(error) else "errored"
        report.status_reason = describe(error)
        report.wall_s = time.perf_counter() - started
        error.__traceback__ = None  # its frames hold the model
        yield report
    finally:
        if device is not None:
            release_memory(device)


def _train(spec: TrialSpec, precision: Precision, device: torch.device, report: TrialReport) -> Iterator[None]:
    """Fills the report in; yields when it is to be sent."""
    reason = unsupported_reason(precision, device)
    if reason is not None:
        report.status, report.status_reason = "unsupported", reason
        yield
        return
    loop = build_loop(spec, precision, device)
    report.init_digest = loop.init_digest
    observation = observe(loop)
    report.effective_precision, report.effective_share = observation.effective, _known(observation.share)
    mismatch = observation.mismatch(precision)
    if mismatch is not None and observation.flops:
        report.status, report.status_reason = "precision_mismatch", mismatch
        yield
        return
    yield from _intervals(spec, loop, observation, report)


def _intervals(spec: TrialSpec, loop: Loop, observation: Observation, report: TrialReport) -> Iterator[None]:
    evaluator = Evaluator(loop)
    if spec.examples_of is not None and spec.examples_of not in evaluator.names:
        raise ValueError(f"metric must be one of {', '.join(evaluator.names)}, got {spec.examples_of!r}")
    steps_per_epoch = loop.data.steps_per_epoch
    total, interval = spec.budget.num_steps(steps_per_epoch), spec.budget.interval(steps_per_epoch)
    step_times: list[float] = []
    while loop.step < total:
        num_steps = min(interval, total - loop.step)
        started = time.perf_counter()
        progress = loop.train(num_steps)
        elapsed = time.perf_counter() - started
        values, examples = evaluator.evaluate()
        step_times.append(elapsed / num_steps)
        _fill(report, loop, progress, values)
        _fill_times(report, elapsed, step_times, num_steps * loop.data.batch_size, loop)
        report.peak_memory_bytes = peak_memory_bytes(loop.model, loop.optimizer, observation.activations, loop.device)
        report.status_reason = divergence(progress, values, report.skipped_steps)
        if report.status_reason is not None:
            report.status = "diverged"
        elif loop.step >= total:
            report.status = "completed"
            report.examples = examples.get(spec.examples_of or "")
        yield
        if report.is_last:
            return


def divergence(progress: Progress, values: dict[str, float], skipped_steps: int) -> str | None:
    """Why a trial that shows these figures has diverged, or ``None`` if it has not.

    Args:
        progress: of the last interval.
        values: its metrics.
        skipped_steps: since the trial began, for the reason.
    """
    if math.isnan(progress.train_loss) and progress.loss_scale is not None:
        # The scale starts high and comes down a step at a time; below 1 no overflow explains the skipped steps.
        if progress.loss_scale < 1:
            scale = f"{progress.loss_scale:g}"
            return f"no step of the interval was applied: loss scale {scale}, {skipped_steps} steps skipped"
    elif not math.isfinite(progress.train_loss):
        return f"the training loss became {progress.train_loss} by step {progress.applied_steps + skipped_steps}"
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if "val_loss" in bad:
        return f"val_loss became {values['val_loss']} by step {progress.applied_steps + skipped_steps}"
    return None


def _fill(report: TrialReport, loop: Loop, progress: Progress, values: dict[str, float]) -> None:
    report.step, report.epoch = loop.step, loop.step / loop.data.steps_per_epoch
    report.applied_steps, report.skipped_steps = progress.applied_steps, loop.step - progress.applied_steps
    report.train_loss, report.learning_rate = progress.train_loss, progress.learning_rate
    report.grad_norm, report.loss_scale = progress.grad_norm, progress.loss_scale
    report.metrics = values
    extremes(values, report.highest, report.lowest)
    report.data_digest = loop.data.digest()


def _fill_times(report: TrialReport, elapsed: float, step_times: list[float], num_examples: int, loop: Loop) -> None:
    report.train_s += elapsed
    report.step_ms = 1e3 * statistics.median(step_times)
    report.samples_per_s = loop.step * loop.data.batch_size / report.train_s
    report.interval_samples_per_s = num_examples / elapsed


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
