"""From what a loop did to what a trial reports of it."""

import math
import statistics

from trainables.evaluation import extremes
from trainables.loop import Loop, Progress
from trainables.report import TrialReport


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


def fill(report: TrialReport, loop: Loop, progress: Progress, values: dict[str, float]) -> None:
    """Takes over where the loop stands and what the last interval came to."""
    report.step, report.epoch = loop.step, loop.step / loop.data.steps_per_epoch
    report.applied_steps, report.skipped_steps = progress.applied_steps, loop.step - progress.applied_steps
    report.train_loss, report.learning_rate = progress.train_loss, progress.learning_rate
    report.grad_norm, report.loss_scale = progress.grad_norm, progress.loss_scale
    report.metrics = values
    extremes(values, report.highest, report.lowest)
    report.data_digest = loop.data.digest()


def fill_times(report: TrialReport, elapsed: float, step_times: list[float], num_examples: int, loop: Loop) -> None:
    """Takes over how long training took.

    Args:
        report: filled in.
        elapsed: seconds of the last interval's steps.
        step_times: mean seconds per step of every interval so far.
        num_examples: that the last interval trained on.
        loop: in training.
    """
    report.train_s += elapsed
    report.step_ms = 1e3 * statistics.median(step_times)
    report.samples_per_s = loop.step * loop.data.batch_size / report.train_s
    report.interval_samples_per_s = num_examples / elapsed


def known(value: float) -> float | None:
    """The value, ``None`` where it is not finite."""
    return value if math.isfinite(value) else None
