"""Tables for a terminal, and their cells: numbers and missing values as text. Used as ``cells.number(...)``."""

from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

Row = dict[str, Any]

NONE = "-"
"""How a missing value is shown."""


LONGEST_TITLE = 80
"""Columns of a terminal that a title may take."""


def grid(*columns: str, title: str = "") -> Table:
    """A table of some columns of text."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    table.title, table.title_justify, table.title_style = Text(title) if title else None, "left", "none"
    table.min_width = min(len(title), LONGEST_TITLE)  # a title is folded at its table's width
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def add_row(table: Table, *cells: str | Text) -> None:
    """Add a row in which square brackets are just that, not rich's markup: reasons come from anywhere."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def add_numbers(table: Table, *columns: str) -> None:
    """Add columns of numbers."""
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)


def rows(table: pd.DataFrame) -> list[Row]:
    """The rows of a DataFrame as dicts."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def by_place(table: pd.DataFrame, among: pd.DataFrame | None = None) -> dict[str, list[Row]]:
    """The rows by sweep and device type, each under their names, as far as these differ.

    A table for each reads well at 80 columns, where names of devices would leave no room for figures.

    Args:
        table: with the columns ``sweep`` and ``device``.
        among: in which they may differ; default: in the table.
    """
    among = table if among is None else among
    names = [name for name in ("sweep", "device") if among[name].nunique() > 1]
    found: dict[str, list[Row]] = {}
    for row in rows(table):
        found.setdefault(" on ".join(text(row[name]) for name in names), []).append(row)
    return found


def with_range(value: str, low: str, high: str) -> str:
    """A figure over its interval, where it has one."""
    return value if low == NONE else f"{value}\n{low} to {high}"


def known(value: Any) -> bool:
    """Whether a value is not missing."""
    return not pd.isna(value)


def text(value: Any) -> str:
    """Any value as text."""
    return str(value) if known(value) else NONE


def words(status: Any) -> str:
    """A status as words."""
    return text(status).replace("_", " ")


def number(value: Any, spec: str, unit: str = "") -> str:
    """A number in a format, with its unit."""
    return f"{value:{spec}}{unit}" if known(value) else NONE


def short(value: Any) -> str:
    """A number to three digits, or any other value."""
    return f"{value:.3g}" if isinstance(value, float) else text(value)


def size(value: Any) -> str:
    """Bytes in the unit that suits them."""
    if not known(value):
        return NONE
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value / 2**10:.0f} KiB"
