"""What a comparison of two models came to, as a table for the terminal and as JSON."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis import cells

_CAPTION = (
    "Ranges are 95 % intervals, each for its figure alone. Changes: MODEL minus BASELINE, or MODEL over BASELINE (x)."
)


@dataclass(frozen=True)
class ComparisonReport:
    """A comparison.

    Args:
        table: from :func:`analysis.comparison.comparison`.
        about: what was compared and how, as plain data.
        notes: what a reader must know to weigh the figures, each a sentence.
    """

    table: pd.DataFrame
    about: dict[str, Any]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data; what is unknown is null."""
        rows = [{str(name): _plain(value) for name, value in row.items()} for row in self.table.to_dict("records")]
        return {**self.about, "figures": rows, "notes": self.notes}

    def print(self, console: Console) -> None:
        """Prints it; 80 columns are enough."""
        for name in ("model", "baseline"):
            side = self.about[name]
            console.print(Text.assemble((name.upper(), "bold"), f"  {side['place']}, {_precision(side)}"))
        about = self.about
        where = f"{about['device']}, {about['num_threads']} threads" if about["num_threads"] else about["device"]
        console.print(Text(f"{about['num_samples']} examples of {about['data']}, batches of {about['batch_size']}"))
        console.print(Text(where))
        console.print(Text(f"\n{_CAPTION}", "dim"))
        console.print(comparison_table(self.table))
        for note in self.notes:
            console.print(Text(note))


def comparison_table(figures: pd.DataFrame) -> Table:
    """A row for every figure, the interval below its estimate."""
    table = cells.grid()
    table.add_column("figure", no_wrap=True)
    cells.add_numbers(table, "MODEL", "BASELINE", "change")
    table.add_column("so MODEL's is", overflow="fold")
    for row in figures.to_dict("records"):
        is_ratio = row["change"] == "ratio"
        value, low, high = (_change(row[name], is_ratio) for name in ("value", "low", "high"))
        shown = (row["figure"], _number(row["model"]), _number(row["baseline"]))
        cells.add_row(table, *map(str, shown), cells.with_range(value, low, high), str(row["says"]))
    return table


def _precision(side: dict[str, Any]) -> str:
    """A side's precision, and what it really ran in where that is another."""
    asked, ran = side["precision"], side["effective_precision"]
    return asked if ran in (asked, None) else f"{asked} (ran as {ran})"


def _number(value: float) -> str:
    """Four digits; all those of counts of parameters and bytes below a thousand million."""
    if math.isnan(value):
        return cells.NONE
    most = 1e9 if value == round(value, 0) else 1e7
    return f"{value:,.0f}" if 1000 <= abs(value) < most else f"{value:.4g}"


def _change(value: float, is_ratio: bool) -> str:
    if math.isnan(value):
        return cells.NONE
    return f"{value:.4g}x" if is_ratio else f"{value:+.{4 if abs(value) < 1e5 else 3}g}"


def _plain(value: Any) -> Any:
    """A cell as JSON has it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
