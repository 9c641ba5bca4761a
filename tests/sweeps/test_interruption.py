"""An interruption is never lost, whatever became of the exception that it raised."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from sweeps.engine.interruption import heed, raise_swallowed
from sweeps.engine.journal import Journal
from sweeps.engine.progress import Progress
from sweeps.engine.recorder import Recorder


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    heed()
    yield
    heed()  # forgets
    for each, handler in before.items():
        signal.signal(each, handler)


class Swallows:
    """A destructor that is interrupted: Python prints what it raises, and goes on."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_that_was_swallowed_stops_the_next_record(number: signal.Signals, tmp_path: Path) -> None:
    with Journal(tmp_path / "run") as journal, Progress(Console(quiet=True)) as progress:
        recorder = Recorder(journal, progress)
        recorder.record("trial", {"trial_id": "a", "stage": "search", "status": "running"})
        swallows = Swallows(number)
        del swallows
        with pytest.raises(KeyboardInterrupt):
            recorder.record("trial", {"trial_id": "b", "stage": "search", "status": "running"})
    (file,) = (tmp_path / "run" / "journal").iterdir()
    assert '"b"' not in file.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_it_is_on_its_way_what_is_done_last_is_not_interrupted_again(number: signal.Signals) -> None:
    done = []

    def interrupted() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            raise_swallowed()
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done


def test_without_one_nothing_happens() -> None:
    raise_swallowed()
