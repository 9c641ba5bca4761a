"""What some steps of training came to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """What some steps of training came to.

    Args:
        train_loss: mean loss over the steps that were applied; NaN where none was.
        grad_norm: gradient norm of the last step, before clipping.
        learning_rate: of the last step.
        applied_steps: steps since the run's start whose update reached the parameters.
        loss_scale: after the last step; ``None`` without a scaler.
        lowest_loss_scale: of these steps; ``None`` without a scaler.
        num_nonfinite: steps whose loss, without any scale, was infinite or NaN.
        first_nonfinite: the first of them, counted from 1 at the run's start; ``None`` where there is none.
        has_collapsed: see :func:`trainables.tally.has_collapsed`.
        waited_s: seconds that the host spent on getting the batches; ``None`` where the loop does not know.
        train_s: seconds that the steps took, where the loop does other things in between; ``None``: all of its time.
    """

    train_loss: float
    grad_norm: float
    learning_rate: float
    applied_steps: int
    loss_scale: float | None = None
    lowest_loss_scale: float | None = None
    num_nonfinite: int = 0
    first_nonfinite: int | None = None
    has_collapsed: bool = False
    waited_s: float | None = 0.0
    train_s: float | None = None
