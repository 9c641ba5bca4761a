"""A model against a baseline on the same batches: losses and metrics of each example, speed, size, what it ran in."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.effective import observe_call
from trainables.evaluation import FunctionTotal, make_total
from trainables.examples import DATA, Examples
from trainables.loading import TaskError, describe
from trainables.memory import is_out_of_memory
from trainables.outputs import IGNORED_LABEL, accuracy, default_loss, labels_of, logits_of
from trainables.scoring import (
    Sums,
    cross_entropy,
    exact_loss,
    find_shifts,
    has_tokens,
    is_classified,
    reference_loss,
    right,
)
from trainables.sides import Side
from trainables.task import Batch
from trainables.throughput import KEPT_BATCHES, Timed, time_both

Arrays: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass
class Measured:
    """What was measured of one side.

    Args:
        sums: figure -> sums and counts (units,); a unit is an example, or a batch where the metric gives no more.
        values: figures of which only one number is known.
        rates: samples per second (rounds,).
        sizes: ``parameters`` and ``bytes`` of parameters and buffers.
        has_perplexity: whether the loss is a mean cross-entropy over tokens.
        effective_precision, effective_share: as :class:`trainables.effective.Observation` has them, of a forward.
    """

    sums: dict[str, Arrays] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    has_perplexity: bool = False
    effective_precision: str | None = None
    effective_share: float | None = None


@dataclass(frozen=True)
class Scoring:
    """How examples are scored, the same for both sides.

    Args:
        shift: of the labels, where the loss is cross-entropy; ``None``: another, taken of one example at a time.
        has_tokens: whether an example has several labels.
        accuracies: names of metrics that are the default accuracy.
        metrics: all others.
    """

    shift: int | None
    has_tokens: bool
    accuracies: tuple[str, ...]
    metrics: dict[str, Any]


def choose_scoring(sides: tuple[Side, Side], examples: Examples, batch: Batch) -> Scoring:
    """How to score these sides on these examples, seen on one batch.

    Raises:
        TaskError: a model fails on it, the two give different numbers of classes, or there is nothing to score by.
    """
    task = examples.task if examples.task is not None and examples.task.forward is None else None
    loss, metrics = (task.loss, None if callable(task.metrics) else task.metrics) if task is not None else (None, None)
    seen: list[tuple[Any, float | None]] = []
    classified = True
    for side in sides:
        with side.in_force(), exact_loss(side.dtype, side.device):
            taken = side.take(batch)
            outputs = side.outputs(taken)
            own = is_classified(outputs, taken)
            _check_labels(side, outputs, batch, own)
            seen.append((outputs, reference_loss(outputs, taken, loss)))
            classified = classified and own
    _check_comparable(seen, classified, examples)
    shift = next(iter(find_shifts(seen, sides[0].take(batch))), None) if classified else None
    tokens = classified and has_tokens(seen[0][0])
    known = metrics if metrics is not None else {"accuracy": accuracy} if classified else {}
    accuracies = tuple(name for name, metric in known.items() if metric is accuracy and classified)
    others = {name: metric for name, metric in known.items() if name not in accuracies}
    # Where the loss of tokens is another one, nothing tells which logits a label belongs to.
    return Scoring(shift, tokens, accuracies if shift is not None or not tokens else (), others)


def _check_comparable(seen: Sequence[tuple[Any, float | None]], classified: bool, examples: Examples) -> None:
    """Refuses sides without a common set of classes, or without a loss."""
    if classified:
        classes, others = (logits_of(outputs).shape[-1] for outputs, _ in seen)
        if classes != others:
            condition = "BASELINE: must give as many classes as MODEL"
            raise TaskError(f"{condition}, got {others} and not {classes}; compare models of the same classes")
    elif None in (reference for _, reference in seen):
        raise TaskError(
            f"{DATA}: must have an integer label for each row of logits, or a task with a loss, got neither in "
            f"{examples.place}; add labels, or give a function that returns a Task(loss=...)"
        )


def _check_labels(side: Side, outputs: Any, batch: Batch, classified: bool) -> None:
    """Refuses labels that the logits have no place for, on which a GPU would fail without saying why."""
    labels = labels_of(batch)
    if not classified or labels is None:
        return
    kept, classes = labels[labels != IGNORED_LABEL], logits_of(outputs).shape[-1]
    if kept.numel() and (kept.min() < 0 or kept.max() >= classes):
        condition = f"{DATA}: must have labels from 0 to {classes - 1}, as {side.name} has {classes} classes"
        raise TaskError(f"{condition}, got {int(kept.min())} to {int(kept.max())}; give data of the same classes")


def evaluate(sides: tuple[Side, Side], examples: Examples, batch_size: int, scoring: Scoring) -> list[Measured]:
    """Losses and metrics of both sides, each batch drawn once for both."""
    scores = [_Scores(scoring) for _ in sides]
    for batch in examples.batches(batch_size):
        for side, score in zip(sides, scores, strict=True):
            with side.in_force():
                taken = side.take(batch)
                outputs = side.outputs(taken)
                _check_labels(side, outputs, batch, scoring.shift is not None)
                score.add(outputs, taken)
    measured = [score.measured() for score in scores]
    if scoring.shift is None:
        losses = _losses_one_by_one(sides, examples)
        for each, found in zip(measured, losses, strict=True):
            each.sums = {"loss": (np.array(found), np.ones(len(found))), **each.sums}
    return measured


def _losses_one_by_one(sides: tuple[Side, Side], examples: Examples) -> list[list[float]]:
    """The loss of each example as a batch of its own."""
    loss = (examples.task.loss if examples.task is not None else None) or default_loss
    losses: list[list[float]] = [[], []]
    for batch in examples.batches(1):
        for side, found in zip(sides, losses, strict=True):
            with side.in_force():
                taken = side.take(batch)
                found.append(float(loss(side.outputs(taken), taken)))
    return losses


class _Scores:
    """One side's figures, batch by batch."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self._sums: dict[str, list[Sums]] = {name: [] for name in scoring.accuracies}
        if scoring.shift is not None:
            self._sums = {"loss": [], **self._sums}
        self._totals = {name: make_total(metric) for name, metric in scoring.metrics.items()}

    def add(self, outputs: Any, batch: Batch) -> None:
        shift = self._scoring.shift or 0
        for name, parts in self._sums.items():
            parts.append((cross_entropy if name == "loss" else right)(outputs, batch, shift))
        for total in self._totals.values():
            total.add(outputs, batch)

    def measured(self) -> Measured:
        sums = {name: (_joined(parts, 0), _joined(parts, 1)) for name, parts in self._sums.items()}
        found = Measured(sums=sums, has_perplexity=self._scoring.has_tokens and self._scoring.shift is not None)
        for name, total in self._totals.items():
            if isinstance(total, FunctionTotal):
                found.sums[name] = total.sums()
            else:
                found.values[name] = total.value()
        return found


def _joined(parts: Sequence[Sums], index: int) -> NDArray[np.float64]:
    return torch.cat([part[index] for part in parts]).double().cpu().numpy()


def measure(
    sides: tuple[Side, Side], examples: Examples, batch_size: int, rounds: int
) -> tuple[Measured, Measured, list[str]]:
    """All figures of both sides.

    Args:
        sides: from :func:`both_sides`.
        examples: all of which are evaluated, in this order.
        batch_size: of the evaluation and the timing, at least 1.
        rounds: of the timing, at least 1.

    Returns:
        the model's figures, the baseline's, and what a reader must know to weigh them, each as a sentence.

    Raises:
        TaskError: the data do not fit the models, or the models each other.
    """
    with _in_one_line(examples):
        kept = list(islice(examples.batches(batch_size), KEPT_BATCHES))
        scoring = choose_scoring(sides, examples, kept[0])
        found = evaluate(sides, examples, batch_size, scoring)
    timed = [Timed(side, side.in_force, [side.take(batch) for batch in kept]) for side in sides]
    rates, contended = time_both((timed[0], timed[1]), rounds, sides[0].device)
    notes = _notes(scoring, contended)
    for side, measured, rate, its in zip(sides, found, rates, timed, strict=True):
        measured.rates, measured.sizes = rate, side.sizes()
        with side.in_force():
            observation = observe_call(partial(side, its.batches[0]), side.precision, side.device)
        measured.effective_precision = observation.effective
        measured.effective_share = observation.share if observation.flops else None
        if (mismatch := observation.mismatch(side.precision)) is not None and observation.flops:
            notes.append(f"{side.name}: {mismatch}.")
    return found[0], found[1], notes


@contextmanager
def _in_one_line(examples: Examples) -> Iterator[None]:
    """Has whatever the data, the loss or a metric raises end in one line; running out of memory goes through."""
    try:
        yield
    except TaskError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        condition = f"{DATA}: {examples.place} must load, and its loss and metrics must take what the models give"
        raise TaskError(f"{condition}, got {describe(error)}; correct them") from error


def _notes(scoring: Scoring, contended: bool | None) -> list[str]:
    notes = []
    if scoring.shift is None:
        notes.append("The loss is not the mean cross-entropy of single labels: it was taken of one example at a time.")
    if contended:
        notes.append("Other work on the machine disturbed the timing.")
    return notes
