"""Reports as an Arrow table: they make up most of a large journal, and are parsed by column instead of by line."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import json as arrow_json

from analysis.columns import column
from analysis.schema import HISTORY_COLUMNS, is_metric

PLAIN = b'{"kind": "report", '
"""How the engine begins a report's line."""

BLOCK_BYTES = 4 << 20
"""What is parsed at a time; no report is nearly as long."""

_ARROW = {"string": pa.string(), "float64": pa.float64(), "Int64": pa.int64()}
_KNOWN = {name: dtype for name, dtype in HISTORY_COLUMNS.items() if name != "sweep"}


def read_plain(file: Path) -> tuple[list[bytes], pa.Table]:
    """The lines of a journal's file that are not plain reports, and the reports.

    A block of lines is parsed while the next one is read.

    Raises:
        ValueError, pyarrow.ArrowException: as :func:`parse`.
    """
    others: list[bytes] = []
    with file.open("rb") as stream, ThreadPoolExecutor(1) as parser:
        tables = []
        for lines in iter(lambda: stream.readlines(BLOCK_BYTES), []):
            plain: list[bytes] = []
            for line in lines:
                (plain if line.startswith(PLAIN) and line.endswith(b"}\n") else others).append(line)
            tables.append(parser.submit(parse, plain))
        return others, concat(table.result() for table in tables)


def parse(lines: Sequence[bytes]) -> pa.Table:
    """The reports of plain lines, as :func:`table_of` has them.

    Raises:
        ValueError, pyarrow.ArrowException: a line is not one report, or has a value of another type; Arrow does not
            say which.
    """
    if not lines:
        return table_of([])
    schema = pa.schema({name: _ARROW[dtype] for name, dtype in _KNOWN.items()})
    table = arrow_json.read_json(
        pa.BufferReader(b"".join(lines)),
        read_options=arrow_json.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=arrow_json.ParseOptions(explicit_schema=schema),
    )
    table.validate(full=True)
    if table.num_rows != len(lines) or table["trial_id"].null_count:
        raise ValueError("a line holds several reports, or one without a trial_id")
    return pa.table({name: table[name].cast(_ARROW[dtype], safe=False) for name, dtype in _columns(table.column_names)})


def table_of(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Reports as a table with the schema's columns and the metrics.

    Raises:
        ResultsError: a column's values are not all of its type.
    """
    names = dict.fromkeys(name for record in records for name in record)
    table = {}
    for name, dtype in _columns(names):
        values = column([record.get(name) for record in records], dtype, name)
        table[name] = pa.array(values, _ARROW[dtype], from_pandas=True)
    return pa.table(table)


def concat(tables: Iterable[pa.Table]) -> pa.Table:
    """All reports in their order."""
    return pa.concat_tables([table_of([]), *tables], promote_options="default").combine_chunks()


def to_frame(table: pa.Table) -> pd.DataFrame:
    """The table with the schema's types."""
    types = {pa.string(): pd.StringDtype(), pa.int64(): pd.Int64Dtype()}
    frame: pd.DataFrame = table.to_pandas(types_mapper=types.get)
    return frame


def _columns(names: Iterable[str]) -> list[tuple[str, str]]:
    """Those that are kept, with their types; metrics are whatever looks like one."""
    metrics = {name: "float64" for name in names if is_metric(name) and name not in _KNOWN}
    return list((_KNOWN | metrics).items())
