"""What the probe found as tables for a terminal, one for each device type."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis import cells
from analysis.cells import Row
from analysis.results import Results


def left_out_tables(results: Results) -> list[Table]:
    """The precisions that the probe left out, and why."""
    trials = results.trials
    left_out = trials[(trials["stage"] == "probe") & ~trials["status"].isin(["completed", "running"])]
    return [_left_out_table(place, rows) for place, rows in cells.by_place(left_out, trials).items()]


def _left_out_table(place: str, rows: list[Row]) -> Table:
    table = cells.grid("precision", "status", "reason", title=place)
    for row in rows:
        status, reason = cells.words(row["status"]), cells.text(row["status_reason"])
        cells.add_row(table, cells.text(row["precision"]), status, reason)
    return table


def print_probe(results: Results, console: Console) -> None:
    """Print what the probe found: a row for every precision, and why some are left out, as sentences."""
    console.print(Text("\nProbe", "bold"))
    for place, rows in cells.by_place(results.trials[results.trials["stage"] == "probe"]).items():
        console.print(probe_table(rows, place))
        for row in rows:
            console.print(Text(f"{row['precision']}: {_route(row)}"), soft_wrap=True)


def _route(row: Row) -> str:
    """By which kernels a precision was probed, or why it is left out."""
    if row["status"] != "completed":
        return f"{cells.words(row['status'])}, {row['status_reason']}"
    default = f", {row['default_step_ms']:.3g} ms by the default one" if cells.known(row["default_step_ms"]) else ""
    kernel = f" ({row['kernel']})" if cells.known(row["kernel"]) else ""
    return f"{row['step_ms']:.3g} ms a step by the route {row['route']}{default}{kernel}"


def probe_table(rows: list[Row], place: str = "") -> Table:
    """A row for every precision probed: usable or not, what a step really ran in, its time and memory."""
    table = cells.grid(title=place)
    for name in ("precision", "usable", "effective"):
        table.add_column(name, no_wrap=True)
    cells.add_numbers(table, "share", "step ms", "samples/s", "memory")
    for row in rows:
        table.add_row(
            cells.text(row["precision"]),
            "yes" if row["status"] == "completed" else f"no, {cells.words(row['status'])}",
            cells.text(row["effective_precision"]),
            cells.number(row["effective_share"], ".0%"),
            cells.number(row["step_ms"], ".3g"),
            cells.number(row["samples_per_s"], ",.0f"),
            cells.size(row["peak_memory_bytes"]),
        )
    return table
