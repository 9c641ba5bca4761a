"""What W&B costs a sweep: as it should be, and ended, without room, without a server.

    python -m benchmarks.tracking [--num-trials 6] [--num-steps 300] [--num-seeds 1]

Each row is a whole sweep on one Ray, with a report a step. Its trials note how long they were kept: as their runs
begin, by each report, and as they end (``benchmarks/tracked_task.py``).
"""

import argparse
import io
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from analysis import Results
from benchmarks.timing import show
from benchmarks.tracked_task import CALLS
from sweeps import Confirm, Sweep, choice, run
from trainables.adapters.track import LINGER_S

OFFLINE = {"WANDB_MODE": "offline"}
ENDED, FULL, REFUSED, SILENT = "its processes ended", "its directory full", "nobody at its address", "a silent server"
CONDITIONS = ("no W&B", "offline", ENDED, FULL, REFUSED, SILENT)


@dataclass(frozen=True)
class Measured:
    """A sweep, and what its trackers cost.

    Args:
        results: of it.
        wall_s: seconds that it took.
        kept_s: name of a call -> seconds that each call of it took.
        num_sleeps: how often a report had its trial wait for something, rather than for a processor that others had.
        said: what progress has shown.
    """

    results: Results
    wall_s: float
    kept_s: Mapping[str, list[float]]
    num_sleeps: int
    said: str


def main() -> None:
    """Runs a sweep in each condition, and prints what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-trials", type=int, default=6, help="of the search")
    parser.add_argument("--num-steps", type=int, default=300, help="of each trial, which is as many reports")
    parser.add_argument("--num-seeds", type=int, default=1, help="of confirm; 0 leaves it out")
    arguments = parser.parse_args()
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    rows = {}
    for condition in CONDITIONS:
        # W&B goes on for a while in a folder that nobody waits for.
        temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        with temporary as folder, arranged(condition, Path(folder)) as environment:
            if environment is None:
                print(f"{condition} is left out: nothing can be mounted here")
                continue
            sweep = declare(condition, Path(folder), arguments.num_trials, arguments.num_steps, arguments.num_seeds)
            rows[condition] = cells(measure(sweep, environment), arguments.num_steps)
            print(condition, *rows[condition], flush=True)
            let_trackers_end(Path(folder))
    heads = ("sweep s", "begin, ms", "report, ms", "p99", "max", "waits", "end, s", "reports", "expected")
    show("What a sweep is kept by W&B", heads, rows)


def declare(condition: str, folder: Path, num_trials: int, num_steps: int, num_seeds: int = 0) -> Sweep:
    """The sweep for a condition.

    Args:
        condition: of :data:`CONDITIONS`.
        folder: for all of its files.
        num_trials: of the search.
        num_steps: of each trial.
        num_seeds: of confirm; 0 leaves it out.
    """
    (folder / "times").mkdir()
    return Sweep(
        name="kept",
        task=f"{Path(__file__).with_name('tracked_task.py')}:build",
        space={
            "n": choice(list(range(num_trials))),
            "batch_size": 16,
            "times": str(folder / "times"),
            "kills": condition == ENDED,
        },
        precisions=("fp32", "bf16-mixed") if num_seeds else ("fp32",),
        searcher="grid",
        num_trials=num_trials,
        max_steps=num_steps,
        report_every_steps=1,
        scheduler="fifo",
        confirm=Confirm(num_seeds=num_seeds) if num_seeds else None,
        stage="confirm" if num_seeds else "search",
        route="default",
        storage=str(folder),
        run_name="kept",
        wandb_project=None if condition == CONDITIONS[0] else "kept",
    )


@contextmanager
def arranged(condition: str, folder: Path) -> Iterator[Mapping[str, str] | None]:
    """The variables for a condition, which holds inside the ``with``; ``None`` where it cannot be had here."""
    usual = {"WANDB_DIR": str(folder / "kept")}
    if condition == FULL:
        with full(folder / "full") as is_full:
            yield {**OFFLINE, "WANDB_DIR": str(folder / "full")} if is_full else None
    elif condition in (REFUSED, SILENT):
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"http://127.0.0.1:{server.getsockname()[1]}"
            if condition == REFUSED:
                server.close()
            yield {**usual, "WANDB_MODE": "online", "WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}
    else:
        yield usual | OFFLINE


@contextmanager
def full(folder: Path) -> Iterator[bool]:
    """A file system of 64 KiB with 4 of them free; whether it could be had, for which root is needed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "ampsweep-full", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        (folder / "fill").write_bytes(bytes(60 * 1024))
        yield True
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def measure(sweep: Sweep, environment: Mapping[str, str]) -> Measured:
    """Runs a sweep, and collects what its trials have noted.

    Args:
        sweep: of :func:`declare`.
        environment: variables for its trackers.
    """
    before = {name: os.environ.get(name) for name in environment}
    said = io.StringIO()
    os.environ.update(environment)
    try:
        began = time.perf_counter()
        results = run(sweep, Console(file=said, width=200))
        wall_s = time.perf_counter() - began
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    files = (Path(sweep.storage) / "times").glob("*.jsonl")
    noted = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    kept = {name: [each["s"] for each in noted if each["call"] == name] for name in CALLS}
    return Measured(
        results, wall_s, kept, sum(each["slept"] for each in noted if each["call"] == "saw"), said.getvalue()
    )


def let_trackers_end(folder: Path) -> None:
    """Waits until a sweep's trackers have ended, so that the next one has the machine to itself."""
    deadline = time.monotonic() + LINGER_S + 10
    while time.monotonic() < deadline and any(writes_to(process, folder) for process in psutil.process_iter()):
        time.sleep(0.5)


def writes_to(process: psutil.Process, folder: Path) -> bool:
    """Whether a process is of W&B's, with its files in a folder."""
    try:
        return process.pid != os.getpid() and process.environ().get("WANDB_DIR", "").startswith(str(folder))
    except psutil.Error:
        return False


def cells(measured: Measured, num_steps: int) -> list[str]:
    """A row of the table."""
    begins, reports, ends = (sorted(measured.kept_s[name]) for name in CALLS)
    trained = measured.results.trials.query("stage != 'probe'")
    shown = [f"{measured.wall_s:.1f}", f"{1e3 * max(begins, default=0):.1f}"]
    shown += [
        f"{1e3 * value:.2f}" for value in (statistics.median(reports), reports[int(0.99 * len(reports))], reports[-1])
    ]
    return [
        *shown,
        str(measured.num_sleeps),
        f"{max(ends, default=0):.2f}",
        str(len(measured.results.history)),
        str(len(trained) * num_steps),
    ]


if __name__ == "__main__":
    main()
