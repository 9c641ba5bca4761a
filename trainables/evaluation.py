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
from trainables.loop import Loop
from trainables.outputs import accuracy, batch_length, labels_of, logits_of
from trainables.task import Batch, Task

EVAL_BATCHES = 2
"""Validation batches are this many times a training micro-batch: without gradients they fit."""


class Evaluator:
    """Evaluates a loop's model on its task's validation set.

    Args:
        loop: whose model, loss, precision and device are used.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        size = EVAL_BATCHES * loop.hyper.batch_size // loop.hyper.accumulate_steps
        self._batches = validation_batches(loop.task, size, loop.device, loop.dtype)
        self._collector = loop.task.metrics if callable(loop.task.metrics) else None
        self.metrics = {} if self._collector else task_metrics(loop.task, next(self._batches()))
        self._collected: list[str] = []

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
        model = self._loop.model
        model.eval()
        totals = {name: make_total(metric) for name, metric in self.metrics.items()}
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
        values = {f"val_{name}": total.value() for name, total in totals.items()}
        collected = {f"val_{name}": value for name, value in (collector.compute() if collector else {}).items()}
        values |= {"val_loss": losses.value()} | collected
        self._collected = list(collected | values)
        examples = {f"val_{name}": total.examples() for name, total in totals.items()}
        return values, {name: found for name, found in examples.items() if found is not None}


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
    """A metric object with ``update(logits, labels)`` and ``compute()``, as torchmetrics makes them."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self._metric = factory()

    def add(self, outputs: Any, batch: Batch) -> None:
        logits = logits_of(outputs)
        if hasattr(self._metric, "to"):
            self._metric = self._metric.to(logits.device)
        self._metric.update(logits, labels_of(batch))

    def value(self) -> float:
        return float(self._metric.compute())

    def examples(self) -> None:
        return None


def make_total(metric: Callable[..., Any]) -> "FunctionTotal | _UpdatingTotal":
    """What collects a metric over batches: ``add``, then ``value`` and ``examples``."""
    made = metric.func if isinstance(metric, functools.partial) else metric
    if isinstance(made, type) and hasattr(made, "update") and hasattr(made, "compute"):
        return _UpdatingTotal(metric)
    return FunctionTotal(metric)


def extremes(values: Mapping[str, float], highest: dict[str, float], lowest: dict[str, float]) -> None:
    """Folds a report's metrics into the highest and lowest so far; values that are not finite are left out."""
    for name, value in _finite(values):
        highest[name] = max(value, highest.get(name, value))
        lowest[name] = min(value, lowest.get(name, value))


def _finite(values: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    return ((name, value) for name, value in values.items() if math.isfinite(value))
