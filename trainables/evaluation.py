"""Metrics of a model over the validation set."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.data import validation_batches
from trainables.loading import TaskError
from trainables.loop import Loop
from trainables.outputs import accuracy, batch_length, labels_of, logits_of
from trainables.scoring import exact_loss, find_shifts, is_classified, reference_loss
from trainables.task import Batch, Task
from trainables.team import ALONE, Team

EVAL_BATCHES = 2
"""Validation batches are this many times a training micro-batch: without gradients they fit."""


class Evaluator:
    """Evaluates a loop's model on its task's validation set, each worker of a team on a stretch of it.

    Args:
        loop: whose model, loss, precision and device are used.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        size = loop.task.val_batch_size or EVAL_BATCHES * loop.hyper.batch_size // loop.hyper.accumulate_steps
        size = max(1, size // loop.team.size)
        self._batches = validation_batches(loop.task, size, loop.device, loop.dtype, loop.team)
        self._collector = loop.task.metrics if callable(loop.task.metrics) else None
        if self._collector and loop.team.size > 1:
            condition = "metrics: must be known before a pass over the validation set where a trial has several workers"
            raise TaskError(f"{condition}, got those that {loop.team.size} would log each; leave workers_per_trial out")
        self._collected: list[str] = []
        self._shifts: tuple[int, ...] = (0,)
        batch = next(self._batches())
        self.metrics = {} if self._collector else task_metrics(loop.task, batch)
        if accuracy in self.metrics.values() and loop.task.loss is None and _has_tokens(batch):
            self._shifts = self._find_shifts(batch)
            if not self._shifts and loop.task.metrics is None:
                self.metrics = {}  # the loss is another one: nothing tells which logits a label belongs to

    @property
    def names(self) -> list[str]:
        """Columns that :meth:`evaluate` gives: ``val_<name>`` of each metric, then ``val_loss``; none where only a pass
        tells them, which has not been made.
        """
        if self._collector:
            return self._collected
        return [f"val_{name}" for name in self.metrics] + ["val_loss"]

    def evaluate(self, max_batches: int | None = None) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
        """The metrics, and the values (num_examples,) per example of those that have them; waits once, at the end."""
        if len(self._shifts) > 1:  # before training the logits may be all alike
            self._shifts = self._find_shifts(next(self._batches()))
        self._loop.model.eval()
        self._loop.tell_step()
        team = self._loop.team
        totals = {f"val_{name}": make_total(self._shifted(metric), team) for name, metric in self.metrics.items()}
        if self._loop.task.losses is not None:
            totals["val_loss"] = FunctionTotal(self._loop.task.losses)
        collector = self._collector() if self._collector else None
        losses = _LossTotal()
        with torch.no_grad():
            for batch in islice(self._batches(), max_batches):
                outputs, loss = self._loop.forward(batch)
                losses.add(loss, batch_length(batch))
                for total in totals.values():
                    total.add(outputs, batch)
                if collector:
                    collector.update(outputs, batch)
        if team.size > 1:
            for each in (losses, *totals.values()):
                each.gather(team)
        values = {"val_loss": losses.value()} | {name: total.value() for name, total in totals.items()}
        collected = {f"val_{name}": value for name, value in (collector.compute() if collector else {}).items()}
        values |= collected
        self._collected = list(collected | values)
        examples = {name: total.examples() for name, total in totals.items()}
        return values, {name: found for name, found in examples.items() if found is not None}

    def _shifted(self, metric: Callable[..., Any]) -> Callable[..., Any]:
        shift = self._shifts[0] if self._shifts else 0
        return functools.partial(accuracy, shift=shift) if metric is accuracy and shift else metric

    def _find_shifts(self, batch: Batch) -> tuple[int, ...]:
        """The places by which the model's own loss may have its labels ahead of the logits; none: it is another one."""
        loop = self._loop
        loop.model.eval()
        generators = [loop.device] if loop.device.type == "cuda" else []
        with torch.random.fork_rng(generators), torch.no_grad(), exact_loss(loop.dtype, loop.device):
            outputs, _ = loop.forward(batch)
        own = reference_loss(outputs, batch, None)
        known = own is not None and is_classified(outputs, batch)
        return loop.team.agree(find_shifts([(outputs, own)], batch) if known else (0,))


def _has_tokens(batch: Batch) -> bool:
    labels = labels_of(batch)
    return labels is not None and labels.dim() > 1


def task_metrics(task: Task, batch: Batch) -> Mapping[str, Callable[..., Any]]:
    """The task's metrics; without any, accuracy where a batch's labels are integers."""
    if isinstance(task.metrics, Mapping):
        return task.metrics
    labels = labels_of(batch)
    return {"accuracy": accuracy} if labels is not None and not labels.is_floating_point() else {}


class _LossTotal:
    """A mean of batch means, weighted by the examples in each."""

    def __init__(self) -> None:
        self._sum: torch.Tensor | None = None
        self._count = 0

    def add(self, loss: torch.Tensor, count: int) -> None:
        part = loss.detach().double() * count
        self._sum = part if self._sum is None else self._sum + part
        self._count += count

    def gather(self, team: Team) -> None:
        assert self._sum is not None  # every worker has an example
        parts = team.gather((self._sum.cpu(), self._count))
        self._sum, self._count = torch.stack([part for part, _ in parts]).sum(), sum(count for _, count in parts)

    def value(self) -> float:
        return math.nan if self._sum is None else float(self._sum) / self._count


class FunctionTotal:
    """A metric function's values per example, or its sums and counts."""

    def __init__(self, metric: Callable[[Any, Batch], Any]) -> None:
        self._metric = metric
        self._values: list[torch.Tensor] = []
        self._sums: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, outputs: Any, batch: Batch) -> None:
        """Takes in a batch."""
        found = self._metric(outputs, batch)
        if isinstance(found, tuple):
            total, count = found
            self._sums.append((torch.as_tensor(total).double(), torch.as_tensor(count).double()))
        else:
            values = torch.as_tensor(found).detach().reshape(-1).double()
            if len(values) != batch_length(batch):
                raise ValueError(
                    f"a metric must return one value per example ({batch_length(batch)} here) or (sum, count), "
                    f"got shape {tuple(torch.as_tensor(found).shape)}"
                )
            self._values.append(values)

    def gather(self, team: Team) -> None:
        """Takes in what all workers of a team have, by rank."""
        values, sums = [value.cpu() for value in self._values], [(a.cpu(), b.cpu()) for a, b in self._sums]
        parts = team.gather((values, sums))
        self._values = [value for values, _ in parts for value in values]
        self._sums = [each for _, sums in parts for each in sums]

    def value(self) -> float:
        """The metric over all batches so far; NaN where nothing counted."""
        if self._sums:
            count = float(sum(float(count) for _, count in self._sums))
            return float(sum(float(total) for total, _ in self._sums)) / count if count else math.nan
        return float(torch.cat(self._values).mean())

    def examples(self) -> NDArray[np.float64] | None:
        """The values (num_examples,) per example; ``None`` where the metric gives sums and counts."""
        return torch.cat(self._values).cpu().numpy() if self._values else None

    def sums(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums and counts (units,): of each example, or of each batch where the metric gives them so."""
        examples = self.examples()
        if examples is not None:
            return examples, np.ones_like(examples)
        total, count = (np.array([float(part) for part in parts]) for parts in zip(*self._sums, strict=True))
        return total, count


class _UpdatingTotal:
    """A metric object with ``update(logits, labels)`` and ``compute()``, as torchmetrics makes them.

    In a team one with ``merge_state(metrics)`` takes in all workers' own; of any other what it has seen is kept.
    """

    def __init__(self, factory: Callable[[], Any], team: Team) -> None:
        self._factory, self._metric = factory, factory()
        self._gathers = team.size > 1 and not hasattr(self._metric, "sync")  # torchmetrics' own gather in ``compute``
        self._merges = hasattr(self._metric, "merge_state")
        self._seen: list[tuple[torch.Tensor, Any]] = []

    def add(self, outputs: Any, batch: Batch) -> None:
        logits, labels = logits_of(outputs), labels_of(batch)
        if hasattr(self._metric, "to"):
            self._metric = self._metric.to(logits.device)
        self._metric.update(logits, labels)
        if self._gathers and not self._merges:
            self._seen.append((logits, labels))

    def gather(self, team: Team) -> None:
        if not self._gathers:
            return
        own, self._metric = self._metric, self._factory()
        if self._merges:
            self._metric.merge_state(team.gather(own.to("cpu")))
            return
        for seen in team.gather([(logits.cpu(), labels.cpu()) for logits, labels in self._seen]):
            for logits, labels in seen:
                self._metric.update(logits, labels)

    def value(self) -> float:
        return float(self._metric.compute())

    def examples(self) -> None:
        return None


def make_total(metric: Callable[..., Any], team: Team = ALONE) -> "FunctionTotal | _UpdatingTotal":
    """What collects a metric over batches: ``add``, in a team ``gather``, then ``value`` and ``examples``."""
    made = metric.func if isinstance(metric, functools.partial) else metric
    if isinstance(made, type) and hasattr(made, "update") and hasattr(made, "compute"):
        return _UpdatingTotal(metric, team)
    return FunctionTotal(metric)


def extremes(values: Mapping[str, float], highest: dict[str, float], lowest: dict[str, float]) -> None:
    """Folds a report's metrics into the highest and lowest so far; values that are not finite are left out."""
    for name, value in _finite(values):
        highest[name] = max(value, highest.get(name, value))
        lowest[name] = min(value, lowest.get(name, value))


def _finite(values: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    return ((name, value) for name, value in values.items() if math.isfinite(value))
