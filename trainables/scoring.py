"""A figure of each example from a batch's outputs: cross-entropy and accuracy, over its tokens where it has several."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch.nn import functional

from trainables.outputs import IGNORED_LABEL, aligned, labels_of, logits_of, own_loss
from trainables.task import Batch, LossFunction

Sums: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Totals and counts (B,) of the examples of a batch."""

SHIFTS = (0, 1)
"""Places by which labels are ahead of the logits that predict them: language models predict the next token, and many
shift the labels themselves."""

AGREEMENT = 1e-5
"""By how much the mean over examples may differ from the loss that it stands for, relative to it: rounding in FP32, for
both come from the same outputs. Label smoothing changes the loss of an untrained model by less than a thousandth, and
so may a shift: a loss that is a BF16 number tells neither, and is to be had in FP32 (:func:`exact_loss`)."""


def exact_loss(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[Any]:
    """A context in which a model of 16-bit parameters computes its own loss in FP32, from logits in their dtype.

    Args:
        dtype: of the parameters; ``None``: FP32, whose losses are so anyway.
        device: where the model runs.
    """
    # Autocast leaves matrix products what they are, and has cross-entropy, log-softmax and other losses in FP32.
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def is_classified(outputs: Any, batch: Batch) -> bool:
    """Whether a batch has an integer label for each of the rows of two or more logits that a model gave."""
    labels = labels_of(batch)
    if labels is None or labels.is_floating_point():
        return False
    logits = logits_of(outputs)
    return logits.dim() >= 2 and logits.shape[-1] > 1 and logits.shape[:-1].numel() == labels.numel()


def has_tokens(outputs: Any) -> bool:
    """Whether an example has several rows of logits (B, T, classes)."""
    return logits_of(outputs).dim() > 2


def cross_entropy(outputs: Any, batch: Batch, shift: int = 0) -> Sums:
    """Each example's cross-entropy, summed over its labels, and how many of them count.

    Args:
        outputs: with logits (B, classes) or (B, T, classes).
        batch: with integer labels (B,) or (B, T).
        shift: by how many places labels are ahead of their logits.
    """
    logits, labels = aligned(outputs, batch, shift)
    rows = functional.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten().long(), ignore_index=IGNORED_LABEL, reduction="none"
    )
    return _by_example(rows, labels)


def right(outputs: Any, batch: Batch, shift: int = 0) -> Sums:
    """How many of each example's labels have the largest logit, and how many count; arguments as above."""
    logits, labels = aligned(outputs, batch, shift)
    return _by_example((logits.argmax(-1) == labels).flatten() & (labels != IGNORED_LABEL).flatten(), labels)


def reference_loss(outputs: Any, batch: Batch, loss: LossFunction | None) -> float | None:
    """The loss that a batch is trained on, where it is not cross-entropy by default: the task's, else the model's."""
    found = loss(outputs, batch) if loss is not None else own_loss(outputs)
    return None if found is None else float(found)


def find_shifts(sides: Sequence[tuple[Any, float | None]], batch: Batch) -> tuple[int, ...]:
    """The shifts by which cross-entropy of single examples adds up to the loss of the batch.

    Args:
        sides: each model's outputs for the batch, and its :func:`reference_loss`.
        batch: where labels are integers.

    Returns:
        those that hold for every side, the likelier first: both where logits do not differ yet or no side has a loss
        of its own; none where the loss is another one.
    """
    errors = {shift: max(_error(*side, batch, shift) for side in sides) for shift in SHIFTS}
    return tuple(sorted((shift for shift in SHIFTS if errors[shift] <= AGREEMENT), key=lambda shift: errors[shift]))


def _error(outputs: Any, reference: float | None, batch: Batch, shift: int) -> float:
    if shift and not has_tokens(outputs):
        return math.inf
    if reference is None:
        return 0.0
    sums, counts = cross_entropy(outputs, batch, shift)
    mean = float(sums.sum() / counts.sum())
    if math.isnan(mean) or math.isnan(reference):
        return 0.0 if math.isnan(mean) and math.isnan(reference) else math.inf
    return abs(mean - reference) / max(abs(reference), 1e-6)


def _by_example(rows: torch.Tensor, labels: torch.Tensor) -> Sums:
    counts = (labels != IGNORED_LABEL).reshape(len(labels), -1).sum(1)
    return rows.double().reshape(len(labels), -1).sum(1), counts
