"""What the benchmarks share: whole processes timed from outside, contestants in turns, medians and ratios."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from rich.console import Console
from rich.table import Table


def wall_seconds(words: Sequence[str], **environment: str) -> tuple[float, str]:
    """Seconds of a Python process from start to end, and what it printed.

    Args:
        words: what follows ``python``.
        environment: variables set for it alone.

    Raises:
        SystemExit: it failed; with the end of its error output.
    """
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=os.environ | environment, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"python {' '.join(words)} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return seconds, done.stdout


Contestant = TypeVar("Contestant")


def in_turns(contestants: Sequence[Contestant], num_rounds: int) -> Iterator[Contestant]:
    """A B C, C B A, A B C, ...: a machine that drifts is as fast for one as for the other."""
    for number in range(num_rounds):
        yield from contestants if number % 2 == 0 else reversed(contestants)


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def spread(values: Sequence[float], digits: int = 1) -> list[str]:
    """Median, smallest and largest as text."""
    return [f"{pick(values):.{digits}f}" for pick in (statistics.median, min, max)]


def show(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Prints a table: a row for every contestant."""
    table = Table("contestant", *columns, title=title)
    for name, cells in rows.items():
        table.add_row(name, *cells)
    Console(width=140).print(table)
