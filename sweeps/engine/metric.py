"""What trials are ranked by: the metric, once the task's own are known, and which way is better."""

from collections.abc import Sequence
from typing import Literal

from sweeps.engine.sweep import Sweep
from sweeps.search.checks import one_of, refuse

HIGHER_IS_BETTER = ("accuracy", "auc", "auroc", "bleu", "f1", "precision", "r2", "recall", "rouge")
LOWER_IS_BETTER = ("error", "loss", "mae", "mse", "perplexity", "rmse", "wer")
"""Metrics of exactly these names need no mode; of any other, the user must say which way is better."""


def metric_and_mode(sweep: Sweep, task_metrics: Sequence[str] | None) -> tuple[str, Literal["max", "min"]]:
    """The metric to rank by, as its column is named, and its direction.

    Args:
        sweep: names the metric, or leaves it to the task; and the mode, or leaves it to the metric's name.
        task_metrics: columns of the task's own metrics, in its order, e.g. ``["val_accuracy"]``; ``None`` where only a
            trial's reports will tell, as of a function that trains by itself.

    Raises:
        SweepError: the task does not have the metric that the sweep names, or its direction is not known.
    """
    known = [*(task_metrics or ()), "val_loss"]
    if sweep.metric is not None and task_metrics is None:
        metric = _column(sweep.metric)
    else:
        metric = known[0] if sweep.metric is None else one_of("metric", sweep.metric, known)
    name = metric.removeprefix("val_")
    if sweep.mode is not None:
        return metric, sweep.mode
    if name not in HIGHER_IS_BETTER + LOWER_IS_BETTER:
        refuse("mode", f"must be given for the metric {metric}", None, "say max or min: which of its values is better")
    return metric, "max" if name in HIGHER_IS_BETTER else "min"


def _column(metric: str) -> str:
    if not metric.startswith("val_"):
        refuse("metric", "must be a column of reports, which begin with val_", metric, f"write val_{metric}")
    return metric
