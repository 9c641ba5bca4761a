"""The one record of what a trial reports."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class TrialReport:
    """Where a trial stands, sent after every interval of its budget and once at its end.

    Args:
        trial_id: the trial's name in its sweep.
        status: ``running`` while more is to come, else how it ended: ``completed``, ``diverged``, ``out_of_memory``,
            ``errored``, ``unsupported`` or ``precision_mismatch``.
        status_reason: one sentence for an end other than ``completed``, or before the budget was spent.
        epoch: passes over the training set so far; a fraction in the middle of one.
        step: optimizer steps so far; ``applied_steps`` and ``skipped_steps`` add up to it.
        train_s: seconds spent on training steps; ``wall_s``: since the trial began, building and evaluation included.
        step_ms: median over intervals of the mean step time; ``samples_per_s``: training examples per second of
            ``train_s``.
        steps_per_s: steps per second of ``train_s``; ``applied_steps_per_s``: without those that a scaler skipped,
            which are cheap and teach nothing.
        interval_samples_per_s, interval_steps_per_s, interval_applied_steps_per_s: the same over the last interval
            alone.
        data_wait_share: the share of ``train_s`` that the host spent on getting batches, 0 to 1: drawing, collating and
            waiting for worker processes. On a CPU training stands still then. A GPU may still have had queued work to
            do, so that it starved for at most this share. ``interval_data_wait_share``: of the last interval.
        train_loss: mean over the last interval.
        metrics: ``val_loss`` and ``val_<name>`` of every metric, at this report.
        highest, lowest: the extremes so far of each of ``metrics``; which of them is best is for the sweep to say.
        learning_rate, grad_norm, loss_scale: after the interval's last step; ``loss_scale_min``: the lowest of the
            interval.
        route: kernel route of its steps; ``compiled``: whether they run compiled, false where that failed.
        effective_precision, effective_share: what a step really ran in; ``None`` where it could not be told.
        step_flops: matrix FLOPs of a micro-batch's forward and backward; ``None`` where none were seen.
        attention: kernels of its fused attention, such as ``flash``; ``None`` where it has none.
        peak_memory_bytes: of a training step; ``peak_reserved_bytes``: on a GPU, with what PyTorch keeps there for
            later.
        device: the device's type by name; ``node``: the host's name.
        init_digest, data_digest: fingerprints of initial weights and of the data order so far.
        checkpoint: path of the weights that were kept, on the last report alone.
        examples: the final value per validation example of the metric that was asked for, on the last report alone.
        warning: what went wrong beside the trial, such as with W&B, since the report before.
    """

    trial_id: str
    status: str = "running"
    status_reason: str | None = None
    epoch: float = 0.0
    step: int = 0
    applied_steps: int = 0
    skipped_steps: int = 0
    train_s: float = 0.0
    wall_s: float = 0.0
    step_ms: float | None = None
    samples_per_s: float | None = None
    steps_per_s: float | None = None
    applied_steps_per_s: float | None = None
    interval_samples_per_s: float | None = None
    interval_steps_per_s: float | None = None
    interval_applied_steps_per_s: float | None = None
    data_wait_share: float | None = None
    interval_data_wait_share: float | None = None
    train_loss: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    highest: dict[str, float] = field(default_factory=dict)
    lowest: dict[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    grad_norm: float | None = None
    loss_scale: float | None = None
    loss_scale_min: float | None = None
    route: str | None = None
    compiled: bool | None = None
    effective_precision: str | None = None
    effective_share: float | None = None
    step_flops: int | None = None
    attention: str | None = None
    peak_memory_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    device: str | None = None
    node: str | None = None
    init_digest: str | None = None
    data_digest: str | None = None
    checkpoint: str | None = None
    examples: NDArray[np.float64] | None = None
    warning: str | None = None

    @property
    def is_last(self) -> bool:
        """Whether the trial has ended."""
        return self.status != "running"

    def to_dict(self) -> dict[str, Any]:
        """The fields by name; not a deep copy."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
