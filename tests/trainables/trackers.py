"""Trackers beside a trial, as tests of them use them: runs, reports, waits, and the processes that are started.

W&B is the real one, offline, or with a server that is not there or does not answer.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from wandb_files import Run

from trainables import tracked as client
from trainables.courier import PATIENCE_S
from trainables.report import TrialReport
from trainables.tracked import Outbox, Tracked
from trainables.tracking import Tracking

OFFLINE = {"WANDB_MODE": "offline"}
SLACK_S = 3.0
"""What a machine at work may add to a time."""


def tracking(folder: Path, trackers: tuple[str, ...] = ("wandb",), **environment: str) -> Tracking:
    return Tracking(trackers, "project", "sweep", "search", str(folder), environment or OFFLINE)


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Outbox]]:
    """Makes the process one that has told trackers nothing yet; what was started meanwhile is gone in the end."""
    made: list[Outbox] = []

    def fresh() -> Outbox:
        made.append(Outbox())
        monkeypatch.setattr(client, "_OUTBOX", made[-1])
        return made[-1]

    fresh()
    yield fresh
    for each in made:
        for process in family(each) if each._courier is not None else ():
            process.kill()


def family(outbox: Outbox) -> list[psutil.Process]:
    """The trackers' process and those that it has started."""
    courier = outbox._courier
    assert courier is not None
    within(30, lambda: courier._hear() or courier.pid or courier.is_lost)
    try:
        process = psutil.Process(courier.pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def is_at_work(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def within(seconds: float, condition: Callable[[], Any]) -> Any:
    """What a condition comes to once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
    return found


def report(step: int, status: str = "running") -> TrialReport:
    return TrialReport("t", status, step=step, epoch=step / 10, train_loss=1 / step, metrics={"val_loss": 2 / step})


def reports_of(tracked: Tracked, steps: range) -> list[str]:
    """Sends reports, none of which may take long, and gives what went wrong."""
    took, wrong = [], []
    for step in steps:
        started = time.perf_counter()
        wrong.append(tracked.saw(report(step)))
        took.append(time.perf_counter() - started)
    took.sort()
    assert took[len(took) // 2] < 0.01
    assert sum(took) < 0.01 * len(took) + SLACK_S
    return [each for each in wrong if each is not None]


def wait_of(tracked: Tracked, seconds: float = PATIENCE_S) -> tuple[float, str | None]:
    """Seconds of waiting at a run's end, for as many at most, and what went wrong."""
    started = time.monotonic()
    tracked.wait(seconds)
    return time.monotonic() - started, tracked.news()


def steps_of(runs: list[Run]) -> list[int]:
    return [row["step"] for run in runs for row in run.history]


def events_of(folder: Path) -> list[Any]:
    """The events that TensorBoard's files hold: records of length, checksum, data, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.glob("events.out.*")):
        data, position = file.read_bytes(), 0
        while position < len(data):
            length = int.from_bytes(data[position : position + 8], "little")
            found.append(Event.FromString(data[position + 12 : position + 12 + length]))
            position += 16 + length
    return found
