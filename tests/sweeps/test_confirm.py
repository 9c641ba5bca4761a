"""Confirm with processes that do nothing but end."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import ray
from ray.exceptions import RayTaskError
from rich.console import Console

from analysis.journal import read_journal
from sweeps import Sweep
from sweeps.engine import confirm
from sweeps.engine.cluster import Resources
from sweeps.engine.confirm import Confirmation
from sweeps.engine.confirm_plan import Place
from sweeps.engine.device_types import ruling_out
from sweeps.engine.endings import Endings
from sweeps.engine.failures import Misplaced
from sweeps.engine.journal import Journal, write_declaration
from sweeps.engine.meter import Meter
from sweeps.engine.prices import PricedNode
from sweeps.engine.progress import Progress
from sweeps.engine.recorder import Recorder
from sweeps.engine.remote import Streams
from sweeps.search.plan import on_device, plan_confirm
from trainables.loading import find_task
from trainables.report import TrialReport
from trainables.spec import Checkpoints


@pytest.mark.ray
def test_what_becomes_of_a_process_that_has_told_all_is_nothing_to_its_trial_or_pair(
    ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a node goes in just that moment. Of a run that has ended, a second would be another one's weights."""
    beginnings, journals = tmp_path / "beginnings", tmp_path / "run" / "journal"

    def run_and_die(spec: dict[str, Any], device: str) -> Iterator[dict[str, Any]]:
        with beginnings.open("a") as file:
            file.write("x")
        yield {"report": None, "node_ids": []}
        yield {"report": TrialReport(spec["trial_id"], "completed", step=4).to_dict(), "node_ids": []}
        told = f'"{spec["trial_id"]}", "status": "completed"'
        while told not in "".join(file.read_text() for file in journals.iterdir()):
            time.sleep(0.05)
        os._exit(1)

    def time_and_fail(jobs: list[str], device: str) -> Iterator[dict[str, Any]]:
        yield {"node_ids": []}
        for _ in jobs:
            yield {"status": "completed", "arms": [], "node_ids": [], "held_s": 1.0}
        raise RuntimeError("planted")

    monkeypatch.setattr(confirm, "_run_trial", run_and_die)
    monkeypatch.setattr(confirm, "_time_blocks", time_and_fail)
    sweep = Sweep(name="s", task="trainables.tasks.digits:build", space={})
    trials = plan_confirm([{}], ["fp32"], num_seeds=2, sweep_seed=0)
    with Journal(tmp_path / "run") as journal:
        declared = {"run_name": "run", "metric": "val_accuracy", "mode": "max"}
        write_declaration(journal.folder, sweep.to_json() | declared)
        recorder = Recorder(journal, Progress(Console(quiet=True)))
        endings = Endings(recorder, Checkpoints("", 30, "val_accuracy", "max"))
        place = Place("", Resources(1, 0, 2, 2), {"fp32": "default"})
        confirmation = Confirmation(sweep, find_task(sweep.task), [place], recorder, endings)
        confirmation.run_trials(trials)
        confirmation.time_blocks(trials)
    told = read_journal(tmp_path / "run")
    assert beginnings.read_text() == "xx"
    assert [row["status"] for row in told.trials.values()] == ["completed"] * 2
    assert [row["status"] for row in told.timings.values()] == ["completed"] * 2


def test_what_a_pair_cost_that_began_again_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node goes in the middle of the second of three pairs; how long that had been timed nobody can tell."""
    attempts = [1, 2]

    class Attempts(Streams):
        def each(self, idle: object, left: list[str], device: str) -> Iterator[dict[str, Any]]:
            assert len(left) == 3 - (len(attempts) == 1)
            yield {"node_ids": ["a"]}
            for _ in range(attempts.pop(0)):
                yield {"status": "completed", "arms": [], "node_ids": ["a"], "held_s": 3600.0}
            if attempts:
                raise ray.exceptions.WorkerCrashedError

    monkeypatch.setattr(confirm, "Streams", Attempts)
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": "a", "Alive": True}])
    sweep = Sweep(name="s", task="trainables.tasks.digits:build", space={}, usd_per_hour=1.0)
    trials = plan_confirm([{}], ["fp32"], num_seeds=3, sweep_seed=0)
    with Journal(tmp_path / "run") as journal:
        write_declaration(journal.folder, sweep.to_json() | {"run_name": "run", "metric": "val_loss", "mode": "min"})
        meter = Meter(sweep.usd_per_hour, find=lambda node_id: PricedNode(4, 0))
        recorder = Recorder(journal, Progress(Console(quiet=True)), meter=meter)
        endings = Endings(recorder, Checkpoints("", 30, "val_loss", "min"))
        place = Place("", Resources(1, 0, 2, 2), {"fp32": "default"})
        Confirmation(sweep, find_task(sweep.task), [place], recorder, endings).time_blocks(trials)
    told = read_journal(tmp_path / "run")
    assert [row["cost_usd"] for row in told.timings.values()] == [0.5, None, 0.5]


class Answers(Streams):
    """Tasks of which the first comes to a node that joined since, and those after it to others."""

    def __init__(self, function: Any, options: Mapping[str, Any], num_workers: int) -> None:
        self.asked.append(options)
        self._options = options

    def keep_off(self, node_ids: Iterable[str]) -> None:
        self._options = ruling_out(node_ids, self._options)
        self.asked.append(self._options)

    def start(self, *arguments: Any) -> Iterator[Any]:
        job, device = arguments
        assert device == "Old CPU"
        if len(self.asked) == 1:
            return iter([BEGUN, RayTaskError("f", "", Misplaced("must run on Old CPU, and came to New CPU"))])
        if isinstance(job, list):
            return iter([BEGUN, *({"node_ids": [], "status": "completed", "arms": []} for _ in job)])
        return iter([BEGUN, {"node_ids": [], "report": TrialReport(job["trial_id"], "completed").to_dict()}])

    def ended(self, stream: Any) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    asked: ClassVar[list[Mapping[str, Any]]] = []


BEGUN = {"node_ids": ["new", "old"], "report": None}


def given(item: Any) -> Any:
    if isinstance(item, Exception):
        raise item
    return item


@pytest.mark.parametrize(("what", "kind"), [("run_trials", "trials"), ("time_blocks", "timings")])
def test_what_comes_to_a_node_of_another_type_that_has_joined_begins_again_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, kind: str
) -> None:
    monkeypatch.setattr(Answers, "asked", [])
    monkeypatch.setattr(confirm, "Streams", Answers)
    monkeypatch.setattr(ray, "wait", lambda streams, **options: (streams[:1], []))
    monkeypatch.setattr(ray, "get", given)
    sweep = Sweep(name="s", task="trainables.tasks.digits:build", space={})
    with Journal(tmp_path / "run") as journal:
        write_declaration(journal.folder, sweep.to_json() | {"run_name": "run", "metric": "val_loss", "mode": "min"})
        recorder = Recorder(journal, Progress(Console(quiet=True)))
        endings = Endings(recorder, Checkpoints("", 30, "val_loss", "min"))
        place = Place("Old CPU", Resources(1, 0, 2, 2), {"fp32": "default"})
        confirmation = Confirmation(sweep, find_task(sweep.task), [place], recorder, endings)
        trials = [on_device(trial, "Old CPU", True) for trial in plan_confirm([{}], ["fp32"], 1, 0)]
        getattr(confirmation, what)(trials)
    rows = getattr(read_journal(tmp_path / "run"), kind).values()
    assert [row["status"] for row in rows] == ["completed"]
    assert [options.get("label_selector") for options in Answers.asked] == [None, {"ray.io/node-id": "!in(new)"}]
