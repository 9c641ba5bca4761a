"""What is told while nothing of a sweep runs, with a clock that is set by hand."""

import io
from pathlib import Path
from typing import Any

import pytest
import ray
from rich.console import Console

from sweeps import Sweep
from sweeps.engine import confirm, idle
from sweeps.engine.callback import JournalCallback
from sweeps.engine.cluster import Resources
from sweeps.engine.confirm import Confirmation
from sweeps.engine.confirm_plan import Place
from sweeps.engine.endings import Endings
from sweeps.engine.idle import Idle
from sweeps.engine.journal import Journal
from sweeps.engine.progress import Progress
from sweeps.engine.recorder import Recorder
from sweeps.engine.remote import Streams
from sweeps.engine.search_budget import SearchBudget
from sweeps.search.plan import plan_confirm, search_trial
from sweeps.search.searchers import PlannedTrials
from tests.sweeps.simulated import make_trial
from trainables.loading import find_task
from trainables.spec import Checkpoints

NODES = [
    {"Alive": True, "Resources": {"CPU": 8.0}},
    {"Alive": True, "Resources": {"CPU": 8.0}},
    {"Alive": False, "Resources": {}},
]


class Clock:
    minutes = 0.0

    def __call__(self) -> float:
        return 60 * self.minutes


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def progress(shown: io.StringIO) -> Progress:
    return Progress(Console(file=shown, width=200))


def test_what_is_waited_for_is_told_once_and_then_ever_more_rarely(
    clock: Clock, shown: io.StringIO, progress: Progress
) -> None:
    watch = Idle(progress, {"num_cpus": 1, "num_gpus": 0.5}, 2, lambda: NODES, clock)
    told = []
    for clock.minutes in (0, 1, 2, 3, 9, 10, 11, 49, 50):
        before = shown.getvalue()
        watch.look(is_busy=False)
        if shown.getvalue() != before:
            told.append(clock.minutes)
    assert told == [2, 10, 50]
    assert shown.getvalue().splitlines()[0] == (
        "  nothing runs since 2 min: waits for 2 times 1 CPUs and 0.5 GPUs that are free, on nodes that can be used "
        "(there are: 2 x 8 CPUs and 0 GPUs; ray status tells who has what)"
    )


def test_what_runs_is_not_waited_for(clock: Clock, shown: io.StringIO, progress: Progress) -> None:
    watch = Idle(progress, {"num_cpus": 1, "num_gpus": 0}, 1, lambda: NODES, clock)
    for clock.minutes in range(60):
        watch.look(is_busy=clock.minutes % 2 == 0)
    assert not shown.getvalue()


def test_a_search_tells_that_it_waits_once_none_of_its_trials_runs(
    tmp_path: Path, clock: Clock, shown: io.StringIO, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Idle.__init__, "__defaults__", (1, lambda: NODES, clock))
    trial: Any = make_trial(0)
    search = PlannedTrials([search_trial(0, 0, {}, "fp32")])
    sweep = Sweep(name="s", task="m:f", space={})
    with Journal(tmp_path / "run") as journal:
        recorder = Recorder(journal, progress)
        endings = Endings(recorder, Checkpoints("", 30, "val_loss", "min"))
        budget = SearchBudget(sweep, recorder.meter)
        callback = JournalCallback(search, Resources(1, 0, 1, 1), "fifo", recorder, endings, budget)

        def wait(minutes: float) -> bool:
            before = shown.getvalue()
            callback.on_step_end(1, [])
            clock.minutes += minutes
            callback.on_step_end(2, [])
            return shown.getvalue() != before

        assert not wait(idle.FIRST_S / 60 - 0.1)
        callback.on_trial_start(1, [], trial)
        assert not wait(60)
        callback.on_trial_rest(trial)  # its node went
        assert wait(idle.FIRST_S / 60)


class Interrupted(BaseException):
    pass


class NeverBegun(Streams):
    """Tasks for which there is no node."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def start(self, *arguments: Any) -> Any:
        return object()

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.parametrize("what", [Confirmation.run_trials, Confirmation.time_blocks])
def test_confirm_tells_that_it_waits_for_a_node_that_does_not_come_back(
    tmp_path: Path, clock: Clock, shown: io.StringIO, progress: Progress, monkeypatch: pytest.MonkeyPatch, what: Any
) -> None:
    def wait(*arguments: object, **more: object) -> Any:
        clock.minutes += 1
        if clock.minutes > idle.FIRST_S / 60 + 1:
            raise Interrupted
        return [], []

    monkeypatch.setattr(Idle.__init__, "__defaults__", (1, lambda: NODES, clock))
    monkeypatch.setattr(confirm, "Streams", NeverBegun)
    monkeypatch.setattr(ray, "wait", wait)
    sweep = Sweep(name="s", task="trainables.tasks.digits:build", space={})
    with Journal(tmp_path / "run") as journal:
        recorder = Recorder(journal, progress)
        endings = Endings(recorder, Checkpoints("", 30, "val_loss", "min"))
        place = Place("", Resources(1, 0, 2, 8), {"fp32": "default"})
        confirmation = Confirmation(sweep, find_task(sweep.task), [place], recorder, endings)
        with pytest.raises(Interrupted):
            what(confirmation, plan_confirm([{}], ["fp32"], num_seeds=1, sweep_seed=0))
    cpus = 8 if what == Confirmation.time_blocks else 1
    assert f"nothing runs since 2 min: waits for {cpus} CPUs and 0 GPUs that are free" in shown.getvalue()
