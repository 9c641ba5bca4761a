"""From what a loop did to what a trial reports of it."""

import math
import statistics

from trainables.evaluation import extremes
from trainables.loop import Loop
from trainables.progress import Progress
from trainables.report import TrialReport
from trainables.tally import Before


def divergence(progress: Progress, values: dict[str, float], skipped_steps: int) -> str | None:
    """Why a trial that shows these figures has diverged, or ``None`` if it has not.

    Args:
        progress: of the last interval.
        values: its metrics.
        skipped_steps: since the trial began, for the reason.
    """
    step = progress.applied_steps + skipped_steps
    if progress.num_nonfinite:
        # Never the loss scale's fault: it multiplies the loss only after this, and overflows gradients alone.
        first, num = progress.first_nonfinite, progress.num_nonfinite
        return f"the training loss was not finite, first at step {first} ({num} by step {step})"
    if progress.has_collapsed:
        scale = f"{progress.loss_scale:g}"
        return f"steps are no longer applied: loss scale {scale}, {skipped_steps} steps skipped"
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if "val_loss" in bad:
        return f"val_loss became {values['val_loss']} by step {step}"
    return None


def fill(report: TrialReport, loop: Loop, progress: Progress, values: dict[str, float]) -> None:
    """Takes over where the loop stands and what the last interval came to."""
    report.step, report.epoch = loop.step, loop.epoch
    report.applied_steps, report.skipped_steps = progress.applied_steps, loop.step - progress.applied_steps
    report.train_loss, report.learning_rate = progress.train_loss, progress.learning_rate
    report.grad_norm, report.loss_scale = progress.grad_norm, progress.loss_scale
    report.loss_scale_min = progress.lowest_loss_scale
    report.metrics = values
    extremes(values, report.highest, report.lowest)
    report.data_digest = loop.data.digest()


def fill_times(
    report: TrialReport, elapsed: float, waited: float | None, step_times: list[float], before: Before, loop: Loop
) -> None:
    """Takes over how long training took; what the loop did is in the report already.

    Args:
        report: filled in.
        elapsed: seconds of the last interval's steps.
        waited: those of them that went into getting batches; ``None`` where that is not known.
        step_times: mean seconds per step of every interval so far.
        before: where the loop stood when the interval began.
        loop: in training.
    """
    waited_before = (report.data_wait_share or 0.0) * report.train_s
    report.train_s += elapsed
    if waited is not None:
        report.data_wait_share = (waited_before + waited) / report.train_s
        report.interval_data_wait_share = waited / elapsed
    report.step_ms = 1e3 * statistics.median(step_times)
    report.samples_per_s = loop.step * loop.data.batch_size / report.train_s
    report.steps_per_s = report.step / report.train_s
    report.applied_steps_per_s = report.applied_steps / report.train_s
    report.interval_steps_per_s = (report.step - before.step) / elapsed
    report.interval_applied_steps_per_s = (report.applied_steps - before.applied_steps) / elapsed
    report.interval_samples_per_s = report.interval_steps_per_s * loop.data.batch_size


def known(value: float) -> float | None:
    """The value, ``None`` where it is not finite."""
    return value if math.isfinite(value) else None
