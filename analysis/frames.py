"""Records to DataFrames with the schema's columns and types; what nothing reported is a missing value."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from analysis.columns import column, config_column
from analysis.journal import Journal, Record
from analysis.reports import concat, to_frame
from analysis.schema import (
    BEST_PREFIX,
    CONFIG_PREFIX,
    HISTORY_COLUMNS,
    TIMING_COLUMNS,
    TRIAL_COLUMNS,
    is_metric,
)


def trials_frame(journals: Sequence[Journal]) -> pd.DataFrame:
    """A row for every trial of the journals, in the order of their first lines."""
    rows = [row | _own(row, journal) for journal in journals for row in journal.trials.values()]
    metrics = _metrics(journals, rows)
    best = [BEST_PREFIX + metric for metric in metrics if any(BEST_PREFIX + metric in row for row in rows)]
    best += [BEST_PREFIX + journal.sweep["metric"] for journal in journals]
    data = _data(rows, _with_metrics(TRIAL_COLUMNS, metrics + best))
    configs = [row.get("config") or {} for row in rows]
    names = dict.fromkeys(_space_names(journals)) | dict.fromkeys(name for config in configs for name in config)
    values = {CONFIG_PREFIX + name: config_column([config.get(name) for config in configs]) for name in names}
    return pd.DataFrame(_insert(data, "seed", values), copy=False)


def _own(row: Record, journal: Journal) -> Record:
    """The sweep's name, and the checkpoint's path, which the journal holds relative to a folder that may move."""
    checkpoint = row.get("checkpoint")
    where = {"checkpoint": journal.locate(checkpoint)} if isinstance(checkpoint, str) else {}
    return {"sweep": journal.run_name} | where


def history_frame(journals: Sequence[Journal]) -> pd.DataFrame:
    """A row for every report: the trials in the order of `trials_frame`, each by step; of two of one step the later."""
    ranks: list[NDArray[np.int64]] = []
    tables = []
    offset = 0
    for journal in journals:
        rank = {trial_id: offset + index for index, trial_id in enumerate(journal.trials)}
        ids = journal.reports["trial_id"].combine_chunks().dictionary_encode()
        ranks_of_ids = [rank.setdefault(trial_id, offset + len(rank)) for trial_id in ids.dictionary.to_pylist()]
        ranks.append(np.array(ranks_of_ids, dtype=np.int64)[ids.indices.to_numpy()])
        offset += len(rank)
        tables.append(journal.reports.append_column("sweep", pa.repeat(journal.run_name, len(ids))))
    table = concat(tables)
    kept = _last_of_each_step(np.concatenate(ranks), table["step"].to_pandas())
    metrics = _metrics(journals, [dict.fromkeys(table.column_names)])
    columns = _with_metrics(HISTORY_COLUMNS, metrics)
    in_order = table.select([name for name in columns if name in table.column_names])
    return to_frame(in_order.take(pa.array(kept))).reindex(columns=list(columns))


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
            arms = block.get("arms") or [{}]
            own = {"sweep": journal.run_name, "cost_usd": _part(block.get("cost_usd"), len(arms))}
            rows += [block | arm | _speed(arm, block.get("batch_size")) | own for arm in arms]
    return _frame(rows, TIMING_COLUMNS)


def _part(usd: float | None, num: int) -> float | None:
    return None if usd is None else usd / num


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


def _with_metrics(columns: Mapping[str, str], metrics: Iterable[str]) -> dict[str, str]:
    return _insert(columns, "val_loss", {metric: "float64" for metric in metrics if metric not in columns})


def _insert(columns: Mapping[str, Any], after: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """The columns with some more behind one of them."""
    wider: dict[str, Any] = {}
    for name, column_or_type in columns.items():
        wider[name] = column_or_type
        if name == after:
            wider |= more
    return wider


def _frame(rows: Sequence[Record], columns: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame(_data(rows, columns), copy=False)


def _data(rows: Sequence[Record], columns: Mapping[str, str]) -> dict[str, Any]:
    return {name: column([row.get(name) for row in rows], dtype, name) for name, dtype in columns.items()}
