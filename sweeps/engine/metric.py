"""What trials are ranked by: the metric, once the task's own are known, and which way is better."""

from collections.abc import Sequence
from typing import Literal

from sweeps.engine.sweep import Sweep
from sweeps.search.checks import one_of, refuse
from trainables.stopping import Stopping

HIGHER_IS_BETTER = ("acc", "accuracy", "auc", "auroc", "bleu", "f1", "precision", "r2", "recall", "rouge")
LOWER_IS_BETTER = ("error", "loss", "mae", "mse", "perplexity", "rmse", "wer")
"""Metrics of exactly these names need no mode; of any other, the user must say which way is better."""


def metric_and_mode(sweep: Sweep, task_metrics: Sequence[str] | None) -> tuple[str, Literal["max", "min"]]:
    """The metric to rank by, as its column is named, and its direction.

    Args:
        sweep: names the metric, or leaves it to the task; and the mode, or leaves it to the metric's name.
        task_metrics: columns of the task's own metrics, in its order, e.g. ``["val_accuracy"]``; ``None`` where only a
            trial's reports will tell, as of a function that trains by itself.

    Raises:
        SweepError: the task does not have the metric that the sweep names, or its direction is not known; the same of
            those that runs stop at.
    """
    known = [*(task_metrics or ()), "val_loss"]
    if sweep.metric is not None and task_metrics is None:
        metric = _column("metric", sweep.metric)
    else:
        metric = known[0] if sweep.metric is None else one_of("metric", sweep.metric, known)
    mode = sweep.mode or _usual_mode(metric)
    if mode is None:
        refuse("mode", f"must be given for the metric {metric}", None, "say max or min: which of its values is better")
    if task_metrics is None:
        known = [_column("stop_at", name) for name in sweep.stop_at or ()]
    stopping(sweep, metric, mode, known)
    return metric, mode


def _column(field: str, metric: str) -> str:
    if not metric.startswith("val_"):
        refuse(field, "must be a column of reports, which begin with val_", metric, f"write val_{metric}")
    return metric


def _usual_mode(metric: str) -> Literal["max", "min"] | None:
    name = metric.removeprefix("val_")
    return "max" if name in HIGHER_IS_BETTER else "min" if name in LOWER_IS_BETTER else None


def stopping(sweep: Sweep, metric: str, mode: Literal["max", "min"], known: Sequence[str] = ()) -> Stopping | None:
    """When runs of the search end before their budget; ``None`` where the sweep says nothing of it.

    Args:
        sweep: its ``stop_at``, ``patience`` and ``min_delta``.
        metric, mode: what trials are ranked by.
        known: columns of the task's metrics, ``val_loss`` among them; empty where they were checked before.

    Raises:
        SweepError: the task does not have a metric to stop at, or which of its values is better is not known.
    """
    if sweep.stop_at is None and sweep.patience is None:
        return None
    targets: dict[str, tuple[float, Literal["max", "min"]]] = {}
    for name, value in (sweep.stop_at or {}).items():
        if known:
            one_of("stop_at", name, known)
        way = mode if name == metric else _usual_mode(name)
        if way is None:
            refuse("stop_at", f"needs to know which way {name} is better", None, "rank by it, with metric and mode")
        targets[name] = (value, way)
    return Stopping(metric, mode, targets, sweep.patience, sweep.min_delta)
