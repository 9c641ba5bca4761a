"""Figures over all trials: exploratory, for the scheduler chose which of them to finish."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.schema import BEST_PREFIX, CONFIG_PREFIX, STATUSES, refuse

CAPTION = "Exploratory: all trials of search and confirm. Pruning chose which of them finished; no verdict uses these."
"""What must be said wherever a summary is shown."""


@dataclass(frozen=True)
class Best:
    """The trial with the best metric.

    Args:
        sweep: its run name.
        trial_id: the trial.
        config: its hyperparameters.
        precision: its precision.
        metric: name of the metric.
        value: the trial's last value of the metric, which its checkpoint's weights have.
        checkpoint: path of its checkpoint, ``None`` if none was kept.
        row: all of its columns.
    """

    sweep: str
    trial_id: str
    config: dict[str, Any]
    precision: str
    metric: str
    value: float
    checkpoint: str | None
    row: "pd.Series[Any]"


def summary(trials: pd.DataFrame, by: Sequence[str], metric: str, mode: str) -> pd.DataFrame:
    """Counts, speed and metric per group of trials; the stage ``probe`` is left out.

    Args:
        trials: of sweeps with one metric.
        by: columns of ``trials``.
        metric: name of the metric.
        mode: ``max`` or ``min``.

    Returns:
        a row per group, in order of appearance: the columns of ``by``; ``num_trials`` and ``num_<status>``; medians
        over trials of ``samples_per_s``, ``step_ms`` and ``peak_memory_bytes``; ``best_<metric>`` and
        ``median_<metric>`` of the trials' best values; mean ``skipped_steps``. ``attrs`` holds ``exploratory`` (true)
        and a ``caption``.

    Raises:
        ResultsError: ``by`` is empty or not a column.
    """
    unknown = [name for name in by if name not in trials.columns]
    if unknown or not by:
        columns = ", ".join(name for name in trials.columns if name in _USUAL or name.startswith(CONFIG_PREFIX))
        refuse("by", "must be columns of trials", ", ".join(unknown), f"use one such as {columns}")
    kept = trials[trials["stage"] != "probe"]
    kept = kept.assign(**{_VALUE: _values(kept, metric)})
    rows = [
        dict(zip(by, key, strict=True)) | _figures(group, metric, mode)
        for key, group in kept.groupby(list(by), sort=False, dropna=False)
    ]
    names = [*by, *_figures(kept.iloc[:0], metric, mode)]
    table = pd.DataFrame(rows, columns=names)
    table = table.astype(
        {name: trials[name].dtype for name in by} | {name: "Int64" for name in names if "num_" in name}
    )
    table.attrs = {"exploratory": True, "caption": CAPTION}
    return table


_VALUE, _NOT_KEPT = "_value", "_not_kept"
_USUAL = ("sweep", "stage", "status", "precision", "effective_precision", "seed", "device")


def best(trials: pd.DataFrame, metric: str, mode: str, precision: str | None = None) -> Best:
    """The completed trial of search or confirm that ended with the best metric; of equal ones those
    whose weights are kept, then the one of lower loss.

    Where none has completed, the best of the pruned ones.

    Args:
        trials: of sweeps with one metric.
        metric: name of the metric.
        mode: ``max`` or ``min``.
        precision: look among its trials only.

    Raises:
        ResultsError: no such trial has the metric.
    """
    kept = trials[(trials["stage"] != "probe") & np.isfinite(trials[metric])]
    if precision is not None:
        kept = kept[kept["precision"] == precision]
    by_status = [kept[kept["status"] == status] for status in ("completed", "pruned")]
    kept = next((some for some in by_status if len(some)), kept.iloc[:0])
    if kept.empty:
        of = f" of {precision}" if precision is not None else ""
        condition = f"must find a completed or pruned trial{of} that has a {metric}"
        found = trials["status"].value_counts().to_dict()
        refuse("best", condition, found, "see the reasons in results.trials")
    order = {metric: mode == "min", _NOT_KEPT: True, "val_loss": True, "trial_id": True}  # column -> ascending
    kept = kept.assign(**{_NOT_KEPT: kept["checkpoint"].isna()})
    row = kept.sort_values(list(order), ascending=list(order.values())).iloc[0].drop(_NOT_KEPT)
    config = {
        name.removeprefix(CONFIG_PREFIX): _plain(row[name]) for name in row.index if name.startswith(CONFIG_PREFIX)
    }
    return Best(
        sweep=row["sweep"],
        trial_id=row["trial_id"],
        config={name: value for name, value in config.items() if value is not None},
        precision=row["precision"],
        metric=metric,
        value=float(row[metric]),
        checkpoint=_plain(row["checkpoint"]),
        row=row,
    )


def _values(trials: pd.DataFrame, metric: str) -> "pd.Series[float]":
    """The best value that each trial reached, or its last one where that is not recorded."""
    return trials[BEST_PREFIX + metric].fillna(trials[metric])


def _figures(group: pd.DataFrame, metric: str, mode: str) -> dict[str, Any]:
    value = group[_VALUE]
    return {
        "num_trials": len(group),
        **{f"num_{status}": int((group["status"] == status).sum()) for status in STATUSES},
        "samples_per_s": group["samples_per_s"].median(),
        "step_ms": group["step_ms"].median(),
        "peak_memory_bytes": group["peak_memory_bytes"].astype("float64").median(),
        f"best_{metric}": value.max() if mode == "max" else value.min(),
        f"median_{metric}": value.median(),
        "skipped_steps": group["skipped_steps"].astype("float64").mean(),
    }


def _plain(value: Any) -> Any:
    """A cell as a Python value, ``None`` where it is missing."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, (list, dict)) or not pd.isna(value) else None
