"""Records to DataFrames with the schema's columns and types; what nothing reported is a missing value."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.journal import Journal, Record
from analysis.schema import (
    BEST_PREFIX,
    CONFIG_PREFIX,
    HISTORY_COLUMNS,
    TIMESTAMP,
    TIMING_COLUMNS,
    TRIAL_COLUMNS,
    is_metric,
    refuse,
)

Columns = dict[str, str]


def trials_frame(journals: Sequence[Journal]) -> pd.DataFrame:
    """A row for every trial of the journals, in the order of their first lines."""
    rows = [row | _own(row, journal) for journal in journals for row in journal.trials.values()]
    metrics = _metrics(journals, rows)
    best = [BEST_PREFIX + metric for metric in metrics if any(BEST_PREFIX + metric in row for row in rows)]
    best += [BEST_PREFIX + journal.sweep["metric"] for journal in journals]
    frame = _frame(rows, _insert(TRIAL_COLUMNS, "val_loss", metrics + best))
    configs = [row.get("config") or {} for row in rows]
    names = dict.fromkeys(_space_names(journals)) | dict.fromkeys(name for config in configs for name in config)
    values = {CONFIG_PREFIX + name: _config_values([config.get(name) for config in configs]) for name in names}
    at = frame.columns.get_loc("seed") + 1  # type: ignore[operator]
    return pd.concat([frame.iloc[:, :at], pd.DataFrame(values, index=frame.index), frame.iloc[:, at:]], axis=1)


def _own(row: Record, journal: Journal) -> Record:
    """The sweep's name, and the checkpoint's path, which the journal holds relative to a folder that may move."""
    checkpoint = row.get("checkpoint")
    where = {"checkpoint": str(journal.folder / checkpoint)} if isinstance(checkpoint, str) else {}
    return {"sweep": journal.run_name} | where


def history_frame(journals: Sequence[Journal]) -> pd.DataFrame:
    """A row for every report: the trials in the order of `trials_frame`, each by step; of two of one step the later."""
    rows: list[Record] = []
    ranks: list[int] = []
    offset = 0
    for journal in journals:
        rank = {trial_id: offset + index for index, trial_id in enumerate(journal.trials)}
        for row in journal.reports:
            row["sweep"] = journal.run_name
            ranks.append(rank.setdefault(row["trial_id"], offset + len(rank)))
        rows += journal.reports
        offset += len(rank)
    metrics = _metrics(journals, rows)
    frame = _frame(rows, _insert(HISTORY_COLUMNS, "val_loss", metrics))
    return frame.iloc[_last_of_each_step(np.array(ranks, dtype=np.int64), frame["step"])].reset_index(drop=True)


def _last_of_each_step(ranks: NDArray[np.int64], steps: "pd.Series[int]") -> NDArray[np.int64]:
    """Positions of the rows to keep, by rank and step; a report without a step replaces none."""
    step = steps.to_numpy(dtype=np.float64, na_value=np.inf)
    order = np.lexsort((step, ranks))  # stable: of equals the later one written stands last
    ranks, step = ranks[order], step[order]
    replaced = (ranks[1:] == ranks[:-1]) & (step[1:] == step[:-1]) & np.isfinite(step[1:])
    kept: NDArray[np.int64] = order[~np.append(replaced, False)[: len(order)]]
    return kept


def timings_frame(journals: Sequence[Journal]) -> pd.DataFrame:
    """A row for every block and arm; a block that measured nothing is one row without a precision."""
    rows = []
    for journal in journals:
        for block in journal.timings.values():
            for arm in block.get("arms") or [{}]:
                rows.append(block | arm | _speed(arm, block.get("batch_size")) | {"sweep": journal.run_name})
    return _frame(rows, TIMING_COLUMNS)


def _speed(arm: Record, batch_size: float | None) -> Record:
    windows = [float(window) for window in arm.get("window_ms") or [] if window is not None]
    step_ms = statistics.median(windows) if windows else None
    samples_per_s = 1000 * batch_size / step_ms if batch_size and step_ms else None
    return {"window_ms": windows, "step_ms": step_ms, "samples_per_s": samples_per_s}


def _space_names(journals: Iterable[Journal]) -> list[str]:
    return [name for journal in journals for name in journal.sweep.get("space") or {}]


def _metrics(journals: Iterable[Journal], rows: Iterable[Record]) -> list[str]:
    """The sweeps' own metrics, then the tasks' others by name."""
    seen: set[str] = set().union(*rows)
    others = sorted(key for key in seen if is_metric(key) and not key.startswith(BEST_PREFIX))
    return list(dict.fromkeys([journal.sweep["metric"] for journal in journals] + others))


def _insert(columns: Columns, after: str, metrics: Iterable[str]) -> Columns:
    """The columns with the metrics behind one of them."""
    wider: Columns = {}
    for name, dtype in columns.items():
        wider[name] = dtype
        if name == after:
            wider |= {metric: "float64" for metric in metrics if metric not in columns}
    return wider


def _frame(rows: Sequence[Record], columns: Columns) -> pd.DataFrame:
    data = {name: _values([row.get(name) for row in rows], dtype, name) for name, dtype in columns.items()}
    return pd.DataFrame(data, copy=False)


def _values(values: list[Any], dtype: str, name: str) -> Any:
    try:
        if dtype == "float64":
            return np.array(values, dtype=np.float64)  # None becomes NaN
        if dtype == TIMESTAMP:
            return pd.to_datetime(pd.Series(values, dtype="object"), utc=True, format="ISO8601").dt.as_unit("us")
        if dtype == "object":
            return pd.Series(values, dtype="object")
        return pd.array(values, dtype=dtype)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError) as error:
        detail = str(error).splitlines()[0]
        refuse(f"column {name}", f"must hold values of {dtype} alone", detail, "correct the journal")


def _config_values(values: list[Any]) -> Any:
    """A hyperparameter's column in the narrowest type that holds its values; objects where they are of several."""
    dtype = _CONFIG_DTYPES.get(frozenset(type(value) for value in values if value is not None), "object")
    try:
        return pd.array(values, dtype=dtype) if dtype != "object" else pd.Series(values, dtype="object")  # type: ignore[call-overload]
    except OverflowError:  # an integer of more than 64 bits
        return pd.Series(values, dtype="object")


_CONFIG_DTYPES = {
    frozenset({bool}): "boolean",
    frozenset({int}): "Int64",
    frozenset({float}): "float64",
    frozenset({int, float}): "float64",
    frozenset({str}): "string",
}
