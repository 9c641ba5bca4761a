"""The confirmed arms as tables for a terminal, one for each device type."""

from typing import Any

from rich.table import Table

from analysis import cells
from analysis.cells import Row
from analysis.results import Results


def arms_tables(results: Results) -> list[Table]:
    """What each confirmed precision came to: the kernel route that it took, its time, memory, loss and metric."""
    metrics, configs = set(results.arms["metric"]), results.arms["config_id"].nunique()
    metric = metrics.pop() if len(metrics) == 1 else "metric"
    return [_table(place, rows, metric, configs > 1) for place, rows in cells.by_place(results.arms).items()]


def arms_note(results: Results) -> str:
    """What the figures are of, and what became of timed blocks that other work disturbed."""
    arms = results.arms
    disturbed = arms["num_contended"] > 0
    all_of_it = disturbed & (arms["num_contended"] == arms["num_timed"])
    note = "As confirmed: medians of timed blocks, means of full runs."
    if (disturbed & ~all_of_it).any():
        note += " Timed blocks that other work disturbed are left out."
    return note + (" * all blocks were disturbed." if all_of_it.any() else "")


def _table(place: str, rows: list[Row], metric: str, has_configs: bool) -> Table:
    table = cells.grid(_over("precision", "config" if has_configs else ""), title=place)
    table.add_column("route\nlibraries", overflow="fold", min_width=len("channels_last+onednn"))
    # Two figures to a column: side by side they would not fit beside a route's name.
    ends = ["value"] if metric == "val_loss" else ["val_loss", "value"]
    cells.add_numbers(table, "step ms\nsamples/s", "memory", "\n".join([*ends[:-1], metric]))
    for row in rows:
        cells.add_row(
            table,
            _over(row["precision"], row["config_id"] if has_configs else ""),
            _over(cells.text(row["route"]), _libraries(row["kernel"])),
            _over(_step_ms(row), cells.number(row["samples_per_s"], ",.0f")),
            cells.size(row["peak_memory_bytes"]),
            "\n".join(cells.number(row[name], ".4g") for name in ends),
        )
    return table


def _over(above: str, below: str) -> str:
    return f"{above}\n{below}" if below else above


def _step_ms(row: Row) -> str:
    disturbed = 0 < row["num_timed"] == row["num_contended"]
    return cells.number(row["step_ms"], ".3g", "*" if disturbed else "")


def _libraries(kernels: Any) -> str:
    """The libraries of some kernels, each once."""
    return ", ".join(dict.fromkeys(kernel.split()[0] for kernel in cells.text(kernels).split(", ")))
