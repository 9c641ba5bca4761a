"""Texts and labels of a file or of a data set of the hub, in the columns that were named or that leave no doubt."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from trainables.language.files import KINDS, LABEL_NAMES, TEXT_NAMES, Column, Table, read_table, refuse
from trainables.language.hub_data import read_hub


@dataclass(frozen=True)
class Texts:
    """Texts of one place.

    Args:
        table: what they were read from.
        text_column: where they stand: a name, or a number where there is no header.
        texts: one for each example.
    """

    table: Table
    text_column: Column
    texts: Sequence[str]


@dataclass(frozen=True)
class LabelledTexts(Texts):
    """Texts with a label each.

    Args:
        label_column: where the labels stand.
        labels: as they are written, one for each example.
    """

    label_column: Column
    labels: Sequence[str]


def is_file(place: str) -> bool:
    """Whether a place is or was meant to be a file, and not the name of a data set of the hub."""
    return Path(place).exists() or Path(place).suffix.lower() in KINDS or place.startswith((".", "/", "~"))


def read_texts(place: str, field: str, text_column: Column | None = None) -> Texts:
    """Reads texts.

    Args:
        place: a file, or a data set of the hub as ``NAME[,CONFIGURATION][:SPLIT]``.
        field: the hyperparameter that named it, such as ``"train_file"``.
        text_column: where they stand; ``None``: in the only column, or the one with a usual name.

    Raises:
        TaskError: one line that says what is wrong, and where.
    """
    table = _read(place, field, (text_column,))
    number = _text_number(table, text_column)
    return Texts(table, _called(table, number), _texts(table, number))


def read_labelled(
    place: str, field: str, text_column: Column | None = None, label_column: Column | None = None
) -> LabelledTexts:
    """Reads texts and their labels.

    Args:
        place, field: as of :func:`read_texts`.
        text_column, label_column: where they stand; ``None``: in the column with a usual name, or, of two columns, the
            labels in the one with few values.

    Raises:
        TaskError: one line that says what is wrong, and where.
    """
    table = _read(place, field, (text_column, label_column))
    text, label = _text_number(table, text_column, label_column), _label_number(table, text_column, label_column)
    if text == label:
        refuse("label_column", f"must be another column of {place} than the text", repr(_called(table, label)), _NAME)
    labels = [_label(table, row, value) for row, value in enumerate(table.values(label))]
    return LabelledTexts(table, _called(table, text), _texts(table, text), _called(table, label), labels)


def sorted_labels(labels: Sequence[str]) -> list[str]:
    """The distinct labels: as numbers where all are whole numbers, else in alphabetical order."""
    found = set(labels)
    are_whole = all(label.removeprefix("-").isdecimal() for label in found)
    return sorted(found, key=lambda label: (int(label), label) if are_whole else (0, label))


_NAME = "name them by text_column and label_column"

_HALF = re.compile("[\ud800-\udfff]")
"""Half of a character: a surrogate without the other one of its pair."""


def _read(place: str, field: str, asked: Sequence[Column | None]) -> Table:
    return read_table(place, field, asked) if is_file(place) else read_hub(place, field)


def _called(table: Table, number: int) -> Column:
    return table.names[number] if table.has_header else number


def _text_number(table: Table, asked: Column | None, label: Column | None = None) -> int:
    if asked is not None:
        return table.find(asked, "text_column")
    if len(table.names) == 1:
        return 0
    taken = None if label is None else table.find(label, "label_column")
    found = _usual(table, TEXT_NAMES)
    if found is not None and found != taken:
        return found
    if len(table.names) == 2:
        return 1 - (_few_valued(table, "text_column") if taken is None else taken)
    _refuse_unknown(table, "text_column")


def _label_number(table: Table, text: Column | None, asked: Column | None) -> int:
    if asked is not None:
        return table.find(asked, "label_column")
    if len(table.names) == 1:
        refuse(table.field, f"{table.place} must have a column of labels", f"only {table.names[0]!r}", "add one")
    taken = None if text is None else table.find(text, "text_column")
    found = _usual(table, LABEL_NAMES)
    if found is not None and found != taken:
        return found
    if len(table.names) == 2:
        return _few_valued(table, "label_column") if taken is None else 1 - taken
    _refuse_unknown(table, "label_column")


def _usual(table: Table, names: Sequence[str]) -> int | None:
    there = [name.lower() for name in table.names]
    return next((there.index(name) for name in names if name in there), None)


def _few_valued(table: Table, field: str) -> int:
    """Of two columns the one whose values repeat: at most one in two rows, and half as many as of the other."""
    distinct = [len(set(map(str, table.values(number)))) for number in (0, 1)]
    label = distinct.index(min(distinct))
    if 2 * distinct[label] > len(table) or 2 * distinct[label] > distinct[1 - label]:
        _refuse_unknown(table, field)
    return label


def _refuse_unknown(table: Table, field: str) -> NoReturn:
    there = ", ".join(table.names) if table.has_header else table.described
    refuse(field, f"must be given, since the columns of {table.place} leave doubt ({there})", "nothing", _NAME)


def _texts(table: Table, number: int) -> Sequence[str]:
    values, where = table.values(number), f"in column {_called(table, number)}"
    for row, value in enumerate(values):
        if not isinstance(value, str):
            table.refuse_row(row, f"must hold text {where}", value, "correct it")
        if not value.isascii() and _HALF.search(value):  # which JSON can write, and no tokenizer takes
            table.refuse_row(row, f"must hold whole characters {where}", value, "leave out halves such as \\ud83d")
    return values


def _label(table: Table, row: int, value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as pandas writes whole numbers beside missing ones
    label = str(value).strip() if isinstance(value, str | int) else ""
    if not label:
        table.refuse_row(row, "must hold a label, a word or a whole number", value, "add it or leave the row out")
    return label
