"""The demo, timed from outside: seconds in all, until the first line, and per stage; its verdicts.

python -m benchmarks.demo [--runs 3]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from analysis import Results, load


def main() -> None:
    """Runs the demo several times and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    table = Table("run", "all s", "first line s", "probe s", "search s", "confirm s", "A/A", "verdicts")
    walls = []
    for number in range(1, runs + 1):
        with tempfile.TemporaryDirectory() as storage:
            wall, first = run_demo(storage)
            results = load(Path(storage) / "demo")
        walls.append(wall)
        stages = [f"{seconds:.1f}" for seconds in stage_seconds(results)]
        table.add_row(str(number), f"{wall:.1f}", f"{first:.2f}", *stages, *describe(results))
    console = Console(width=160)
    console.print(table)
    console.print(f"median of {runs}: {statistics.median(walls):.1f} s")


def run_demo(storage: str) -> tuple[float, float]:
    """Seconds of one run of the demo, and until its first line."""
    started = time.perf_counter()
    words = [sys.executable, "-m", "sweeps.digits", "--storage", storage, "--run-name", "demo"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.perf_counter() - started
        process.stdout.read()
    if process.returncode:
        raise SystemExit(f"the demo ended with exit code {process.returncode}")
    return time.perf_counter() - started, first


def stage_seconds(results: Results) -> list[float]:
    """From the end of one stage's last trial to the end of the next one's; timing comes after the last trial."""
    trials = results.trials
    ends = [trials.loc[trials["stage"] == stage, "ended_at"].max() for stage in ("probe", "search", "confirm")]
    starts = [trials["started_at"].min(), *ends[:-1]]
    return [(end - start).total_seconds() for start, end in zip(starts, ends, strict=True)]


def describe(results: Results) -> tuple[str, str]:
    """The A/A interval and the verdicts in a line each."""
    rows = list(results.verdicts.itertuples())
    aa = f"{rows[0].aa_low:.3f} to {rows[0].aa_high:.3f}" if rows else "-"
    lines = (
        f"{r.precision} {r.config_id} {r.verdict} {r.speedup:.2f} ({r.speedup_low:.2f}-{r.speedup_high:.2f})"
        for r in rows
    )
    return aa, "\n".join(lines)


if __name__ == "__main__":
    main()
