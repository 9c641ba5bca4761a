"""Columns of a local file, by its ending: CSV, TSV, JSONL, Parquet, or plain text with an example a line."""

import csv
import io
import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from trainables.loading import TaskError

Column: TypeAlias = str | int
"""A column's name, or its number from 0."""

TEXT_NAMES = ("text", "sentence", "content", "review")
LABEL_NAMES = ("label", "labels", "class", "target")
"""Usual names of columns, the commonest first."""

MOST_SHOWN = 80
"""Characters of a value that an error shows."""


def refuse(field: str, condition: str, got: object, remedy: str) -> NoReturn:
    """Raises the error for what cannot be used.

    Args:
        field: the hyperparameter that named it.
        condition: what must hold.
        got: what was found.
        remedy: what to do about it.

    Raises:
        TaskError: always; one line.
    """
    raise TaskError(f"{field}: {condition}, got {got}; {remedy}")


def shortened(written: str) -> str:
    """What was found, as far as one line of an error has room for it."""
    return written if len(written) <= MOST_SHOWN else f"{written[:MOST_SHOWN]} ..."


@dataclass(frozen=True)
class Table:
    """What a file holds.

    Args:
        field: the hyperparameter that named the file.
        place: the file.
        names: of its columns; their numbers where it has no header.
        columns: as many, each with a value for each row.
        has_header: whether the file itself names its columns.
        lines: where each row begins in the file, from 1.
    """

    field: str
    place: str
    names: tuple[str, ...]
    columns: tuple[Any, ...]
    has_header: bool
    lines: Sequence[int]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.lines)

    def find(self, asked: Column, field: str) -> int:
        """The number of a column.

        Args:
            asked: its name or number.
            field: the hyperparameter that asks for it.

        Raises:
            TaskError: there is none; with those that are there.
        """
        if str(asked) in self.names:
            return self.names.index(str(asked))
        if isinstance(asked, int) and 0 <= asked < len(self.names):
            return asked
        there = ", ".join(self.names) if self.has_header else f"{self.described} but no header"
        refuse(field, f"must be a column of {self.place} ({there})", repr(asked), "name one of these, or its number")

    @property
    def described(self) -> str:
        """The columns of a file without header: their numbers, and what its first row holds there."""
        first = [str(self.values(number)[0])[:20] for number in range(len(self.names))]
        return ", ".join(f"{number}: {cell!r}" for number, cell in enumerate(first))

    def values(self, number: int) -> Sequence[Any]:
        """The values of a column."""
        column = self.columns[number]
        return column.to_pylist() if hasattr(column, "to_pylist") else column  # type: ignore[no-any-return]

    def refuse_row(self, row: int, condition: str, got: object, remedy: str) -> NoReturn:
        """Raises the error for a value of one row, by its line."""
        refuse(self.field, f"line {self.lines[row]} of {self.place} {condition}", shortened(repr(got)), remedy)


def read_table(place: str, field: str, asked: Collection[Column | None] = ()) -> Table:
    """Reads a file.

    The first row of CSV and TSV is a header where one of its cells is a column that is asked for, or one is a usual
    name (:data:`TEXT_NAMES`, :data:`LABEL_NAMES`) and none a number; otherwise the file has no header, and its columns
    go by their numbers.

    Args:
        place: a file whose name ends in one of :data:`KINDS`.
        field: the hyperparameter that named it.
        asked: columns that will be looked up.

    Raises:
        TaskError: it cannot be read, is empty, or a line of it is malformed; one line that says which.
    """
    _check_exists(place, field)
    read = KINDS.get(Path(place).suffix.lower())
    if read is None:
        refuse(field, f"must end in one of {', '.join(KINDS)}", repr(place), "rename or convert it")
    table = read(place, field, asked)
    if not len(table):
        refuse(field, f"{place} must hold at least one example", "none", "name a file with examples")
    return table


def _check_exists(place: str, field: str) -> None:
    if not Path(place).is_file():
        refuse(field, "must be an existing file", repr(place), "check the path")


def read_whole(place: str, field: str) -> str:
    """The text of a file in UTF-8.

    Args:
        place: the file.
        field: the hyperparameter that named it.

    Raises:
        TaskError: it does not exist or cannot be read; with the line that is not UTF-8.
    """
    _check_exists(place, field)
    try:
        content = Path(place).read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        refuse(field, "must be a file that can be read", f"{error.strerror} of {place!r}", "check its permissions")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        refuse(field, f"line {line} of {place} must be UTF-8", f"byte 0x{content[error.start]:02x}", "convert the file")


def _read_csv(place: str, field: str, asked: Collection[Column | None]) -> Table:
    return _table_of(place, field, asked, _rows(place, field, strict=True))


def _read_tsv(place: str, field: str, asked: Collection[Column | None]) -> Table:
    """Quotes mean nothing in it: in text they are rarely balanced, and would swallow lines."""
    return _table_of(place, field, asked, _rows(place, field, delimiter="\t", quoting=csv.QUOTE_NONE))


def _rows(place: str, field: str, **options: Any) -> Iterator[tuple[int, list[str]]]:
    """The line in which each row begins, and its cells; empty lines are left out."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(read_whole(place, field), newline=""), **options)
    width, line = 0, 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            refuse(field, f"line {line} of {place} must begin a well-formed row", error, "correct its quotes")
        if cells is None:
            return
        if cells:
            width = width or len(cells)
            if len(cells) != width:
                remedy = "correct the line"
                refuse(field, f"line {line} of {place} must have {width} cells, as its first row", len(cells), remedy)
            yield line, cells
        line = reader.line_num + 1


def _table_of(place: str, field: str, asked: Collection[Column | None], rows: Iterator[tuple[int, list[str]]]) -> Table:
    found = list(rows)
    has_header = bool(found) and _is_header(found[0][1], asked)
    names = [cell.strip() for cell in found[0][1]] if has_header else map(str, range(len(found[0][1]) if found else 0))
    found = found[1:] if has_header else found
    columns = tuple(zip(*(cells for _, cells in found), strict=True))
    return Table(field, place, tuple(names), columns, has_header, [line for line, _ in found])


def _is_header(cells: Sequence[str], asked: Collection[Column | None]) -> bool:
    names = [cell.strip() for cell in cells]
    if any(isinstance(name, str) and name in names for name in asked):
        return True
    known = {name.lower() for name in (*asked, *TEXT_NAMES, *LABEL_NAMES) if isinstance(name, str)}
    return any(name.lower() in known for name in names) and not any(map(_is_number, names))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_jsonl(place: str, field: str, asked: Collection[Column | None]) -> Table:
    """The first line's keys are the columns; where a later line lacks one its value is ``None``."""
    lines, rows = [], []
    for number, written in enumerate(read_whole(place, field).split("\n"), 1):
        if not written.strip():
            continue
        try:
            row = json.loads(written)
        except (ValueError, RecursionError) as error:
            refuse(field, f"line {number} of {place} must be JSON", error, "correct the line")
        if not isinstance(row, Mapping):
            condition = f"line {number} of {place} must be an object"
            refuse(field, condition, shortened(repr(row)), 'write {"text": "...", ...}')
        lines.append(number)
        rows.append(row)
    names = tuple(rows[0]) if rows else ()
    return Table(field, place, names, tuple([row.get(name) for row in rows] for name in names), True, lines)


def _read_parquet(place: str, field: str, asked: Collection[Column | None]) -> Table:
    from pyarrow import ArrowException, parquet

    try:
        content = parquet.read_table(place)
    except (OSError, ArrowException) as error:
        refuse(field, f"{place} must be a Parquet file", error, "write it again")
    return Table(
        field, place, tuple(content.column_names), tuple(content.columns), True, range(1, content.num_rows + 1)
    )


def _read_text(place: str, field: str, asked: Collection[Column | None]) -> Table:
    written = [line.rstrip("\r") for line in read_whole(place, field).split("\n")]
    lines = [number for number, line in enumerate(written, 1) if line.strip()]
    return Table(field, place, ("text",), ([written[number - 1] for number in lines],), True, lines)


KINDS: Mapping[str, Callable[[str, str, Collection[Column | None]], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}
"""Readers by the ending of a file's name."""
