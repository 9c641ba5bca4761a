"""What each precision came to in the confirm stage: a row for every configuration and precision that was confirmed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.schema import ARM_COLUMNS

_ARM = ["device", "config_id", "precision"]


def arms(trials: pd.DataFrame, timings: pd.DataFrame, declaration: Mapping[str, Any]) -> pd.DataFrame:
    """The confirmed arms beside each other, by what was measured apart: time in blocks, the metric in full runs.

    Args:
        trials: one sweep's trials.
        timings: its timings; the copy of the baseline is left out, and the baseline by default kernels.
        declaration: the sweep as in its ``sweep.json``.

    Returns:
        a row per device, configuration and precision, in the declared order of precisions: ``route`` and ``kernel``
        (several are joined), medians over timed blocks of ``step_ms``, ``samples_per_s`` and ``peak_memory_bytes``, and
        means over completed runs of ``val_loss`` and of the metric as ``value``. What nothing measured is missing. Of
        ``num_timed`` blocks other work disturbed ``num_contended``, which are left out unless there are no others.
    """
    runs = trials[(trials["stage"] == "confirm") & (trials["status"] == "completed")]
    runs = runs.assign(value=runs[declaration["metric"]])
    other = timings[["is_copy", "is_default"]].fillna(False).astype(bool).any(axis=1)
    timed = timings[(timings["status"] == "completed") & ~other]
    timed = timed.assign(contended=timed["contended"].fillna(False).astype(bool))
    blocks = timed.groupby(_ARM).agg(num_timed=("block_id", "nunique"), num_contended=("contended", "sum"))
    speed = (
        _undisturbed(timed)
        .groupby(_ARM)
        .agg(
            route=("route", _joined),
            kernel=("kernel", _joined),
            step_ms=("step_ms", "median"),
            samples_per_s=("samples_per_s", "median"),
            peak_memory_bytes=("peak_memory_bytes", "median"),
        )
    )
    ends = runs.groupby(_ARM).agg(
        num_runs=("trial_id", "nunique"), val_loss=("val_loss", "mean"), value=("value", "mean")
    )
    table = blocks.join(speed).join(ends, how="outer").reset_index()
    order = {name: number for number, name in enumerate(declaration["precisions"])}
    table = table.sort_values(_ARM, key=lambda names: names.map(order) if names.name == "precision" else names)
    counts = ["num_timed", "num_contended", "num_runs"]
    table[counts] = table[counts].fillna(0)
    table["peak_memory_bytes"] = np.round(table["peak_memory_bytes"].astype("float64"))
    table = table.assign(sweep=declaration.get("run_name"), metric=declaration["metric"])
    return table.reindex(columns=list(ARM_COLUMNS)).astype(ARM_COLUMNS).reset_index(drop=True)


def _undisturbed(timed: pd.DataFrame) -> pd.DataFrame:
    """Of each arm the blocks that nothing disturbed; all, where there is none."""
    only = timed["contended"].groupby([timed[name] for name in _ARM]).transform("all")
    return timed[~timed["contended"] | only]


def _joined(routes: "pd.Series[Any]") -> str | None:
    return ", ".join(dict.fromkeys(routes.dropna())) or None
