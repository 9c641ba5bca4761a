"""The same list of runs by ampsweep, by a script from Ray Tune's docs and by one from Optuna's: equal work.

    python -m benchmarks.search [--anchors ../shared/anchors] [--lists 5] [--runs 128] [--epochs 6]

Whole processes, timed from outside. Every list holds configurations of the digits task in fp32 and bf16-mixed, each
trained for all epochs, without pruning. The anchors train the same network on the same data, up to the split.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table


def main() -> None:
    """Times every contestant on every list and prints the medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--anchors", type=Path, default=Path("../shared/anchors"))
    parser.add_argument("--lists", type=int, default=5)
    parser.add_argument("--runs", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    for seed in range(arguments.lists):
        with tempfile.TemporaryDirectory() as folder:
            points = write_points(Path(folder) / "points.jsonl", arguments.runs, seed)
            for name, words in contestants(points, arguments.epochs, arguments.anchors, folder).items():
                seconds.setdefault(name, []).append(wall_seconds(words))
                print(f"list {seed}: {name} {seconds[name][-1]:.1f} s", flush=True)
    show(seconds, f"{arguments.runs} runs of {arguments.epochs} epochs, {arguments.lists} lists")


def write_points(path: Path, num_runs: int, seed: int) -> Path:
    """A list of runs, half of them in each precision."""
    draw = random.Random(seed)
    with path.open("w") as lines:
        for index in range(num_runs):
            point = {
                "learning_rate": 10 ** draw.uniform(-4, -1.5),
                "weight_decay": 10 ** draw.uniform(-5, -1),
                "width": draw.choice([16, 32, 64]),
                "precision": ("fp32", "bf16-mixed")[index % 2],
                "seed": draw.randrange(100),
            }
            lines.write(json.dumps(point) + "\n")
    return path


def contestants(points: Path, epochs: int, anchors: Path, storage: str) -> dict[str, list[str]]:
    """The commands to compare, by name."""
    work = ["--points", str(points), "--epochs", str(epochs)]
    num_runs = sum(1 for _ in points.open())
    ours = ["-m", "sweeps.digits", "--points", str(points), "--max-epochs", str(epochs), "--scheduler", "fifo"]
    ours += ["--stage", "search", "--precisions", "fp32,bf16-mixed", "--storage", storage]
    return {
        "ampsweep": [sys.executable, *ours],
        "Ray Tune, actors reused": [sys.executable, str(anchors / "plain_ray_tune.py"), "--reuse-actors", *work],
        "Optuna, 2 processes": [sys.executable, str(anchors / "plain_optuna.py"), "--trials", str(num_runs), *work],
    }


def wall_seconds(words: list[str]) -> float:
    """Seconds of a process from start to end.

    Raises:
        CalledProcessError: it failed.
    """
    started = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def show(seconds: dict[str, list[float]], title: str) -> None:
    """Prints medians, and the median over lists of the ratio of our time to each."""
    table = Table("contestant", "median s", "min", "max", "ampsweep / it", title=title)
    ours = seconds["ampsweep"]
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(ours, times, strict=True))
        table.add_row(name, *(f"{f(times):.1f}" for f in (statistics.median, min, max)), f"{ratio:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
