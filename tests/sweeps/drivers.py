"""Drivers as processes of their own, to be ended by signals while they run a small sweep that can be resumed."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from brief_timing import time_briefly

from sweeps import Confirm, Sweep, choice, loguniform

NUM_TRIALS = 4
ERRORS = "errors.txt"
IMPORTED = ["sweeps.engine.cli", "sweeps.engine.tune", "sweeps.engine.confirm", "trainables.adapters.ray_tune"]
PROCESSES = multiprocessing.get_context("forkserver")


def declared(storage: Path | str, **changes: Any) -> Sweep:
    known: dict[str, Any] = {
        "name": "tiny",
        "task": "trainables.tasks.digits:build",
        "space": {"learning_rate": loguniform(1e-3, 1e-2), "width": choice([4, 8]), "batch_size": 128},
        "precisions": ("fp32", "bf16-mixed"),
        "metric": "val_accuracy",
        "num_trials": NUM_TRIALS,
        "max_epochs": 4,
        "reduction_factor": 2,
        "confirm": Confirm(num_seeds=2),
        "cpus_per_trial": 1.5,  # one trial at a time, of one thread
        "route": "channels_last",  # else it follows from times, and bits from it
        "checkpoint_every_s": 0,
        "run_name": "first",
        "storage": str(storage),
    }
    return Sweep(**{**known, **changes})


def _drive(storage: Path, flags: tuple[str, ...]) -> None:
    """What a driver's process does, as if it had been started by a shell."""
    from sweeps.engine.cli import main

    for descriptor, file in ((1, os.devnull), (2, storage / ERRORS)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    # Tests that run in the background may ignore SIGINT, and so would all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        time_briefly(patch)
        main(declared(storage), flags)


def errors_of(storage: Path) -> str:
    """What the last driver wrote to standard error."""
    return (storage / ERRORS).read_text()


@contextmanager
def driver(storage: Path, *flags: str) -> Iterator[ForkServerProcess]:
    """A driver at work, forked from a process that has imported what every driver needs."""
    PROCESSES.set_forkserver_preload(IMPORTED)
    process = PROCESSES.Process(target=_drive, args=(storage, flags))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
