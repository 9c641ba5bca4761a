"""Reports as an Arrow table: they make up most of a large journal, and are parsed by column instead of by line."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import compute
from pyarrow import json as arrow_json

from analysis.columns import column
from analysis.schema import HISTORY_COLUMNS, is_metric

PLAIN = b'{"kind": "report", '
"""How the engine begins a report's line."""

_ARROW = {"string": pa.string(), "float64": pa.float64(), "Int64": pa.int64()}
_KNOWN = {name: dtype for name, dtype in HISTORY_COLUMNS.items() if name != "sweep"}
_SCHEMA = pa.schema({name: _ARROW[dtype] for name, dtype in _KNOWN.items()})


def read_plain(blocks: Iterable[bytes]) -> Iterator[tuple[list[bytes], pa.Table]]:
    """For each block of lines, the lines that are not plain reports, and the reports.

    Blocks are parsed beside each other, and while the next ones are read; few of them are in memory.

    Raises:
        ValueError, pyarrow.ArrowException: as :func:`parse`.
    """
    with ThreadPoolExecutor(pa.cpu_count()) as parsers:
        under_way: deque[Future[tuple[list[bytes], pa.Table]]] = deque()
        for block in blocks:
            under_way.append(parsers.submit(_split, block))
            if len(under_way) > 2 * pa.cpu_count():
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _split(block: bytes) -> tuple[list[bytes], pa.Table]:
    lines = compute.split_pattern(pa.array([block], pa.binary()), "\n").flatten()
    plain = compute.and_(compute.starts_with(lines, PLAIN), compute.ends_with(lines, "}"))
    others = lines.filter(compute.invert(plain)).to_pylist()
    return [line for line in others if line], parse(lines.filter(plain))


def parse(lines: pa.BinaryArray) -> pa.Table:
    """The reports of plain lines, as :func:`table_of` has them.

    Raises:
        ValueError, pyarrow.ArrowException: a line is not one report, or has a value of another type; Arrow does not
            say which.
    """
    if not lines:
        return table_of([])
    [joined] = compute.binary_join(pa.ListArray.from_arrays([0, len(lines)], lines), b"\n")
    text = joined.as_py()
    if b"[" in text or text.count(b"{") != len(lines):
        raise ValueError("a line is nested; over a deeply nested one Arrow's parser would end the process")
    table = arrow_json.read_json(
        pa.BufferReader(text),
        read_options=arrow_json.ReadOptions(block_size=len(text), use_threads=False),
        parse_options=arrow_json.ParseOptions(explicit_schema=_SCHEMA),
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
    return pa.concat_tables([table_of([]), *tables], promote_options="default")


def to_frame(table: pa.Table) -> pd.DataFrame:
    """The table with the schema's types."""
    types = {pa.string(): pd.StringDtype(), pa.int64(): pd.Int64Dtype()}
    frame: pd.DataFrame = table.to_pandas(types_mapper=types.get)
    return frame


def _columns(names: Iterable[str]) -> list[tuple[str, str]]:
    """Those that are kept, with their types; metrics are whatever looks like one."""
    metrics = {name: "float64" for name in names if is_metric(name) and name not in _KNOWN}
    return list((_KNOWN | metrics).items())
