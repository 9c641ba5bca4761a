"""What runs cost over several processes of one run, of which each is killed; the clock is set by hand."""

import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from analysis import load
from analysis.journal import read_journal
from sweeps import Sweep
from sweeps.engine import rows
from sweeps.engine.callback import JournalCallback
from sweeps.engine.cluster import Resources
from sweeps.engine.confirm_plan import winners
from sweeps.engine.endings import Endings
from sweeps.engine.folders import Home
from sweeps.engine.journal import Journal, write_declaration
from sweeps.engine.meter import Meter
from sweeps.engine.prices import PricedNode
from sweeps.engine.progress import Progress
from sweeps.engine.recorder import Recorder
from sweeps.engine.resume import Past, read_past, task_digest
from sweeps.engine.search_budget import SearchBudget
from sweeps.engine.stages import _Run
from sweeps.search.plan import PlannedTrial
from trainables.loading import find_task
from trainables.spec import Checkpoints

WHOLE = {"num_cpus": 4, "num_gpus": 0}
TASK = "trainables.tasks.digits:build"
SWEEP = Sweep("s", TASK, {"width": 4}, num_trials=4, usd_per_hour={"Xeon": 2.0, "H100": 10.0}, budget_usd=15)


class Run:
    """A run's folder, and the process that writes it now.

    Args:
        folder: of the run.
        sweep: as all of its processes declare it.
    """

    def __init__(self, folder: Path, sweep: Sweep = SWEEP) -> None:
        self.folder, self.sweep, self.hours = folder, sweep, 0.0
        self.past = Past()
        self._start()
        digest = task_digest(find_task(TASK))
        probed = {"run_name": "r", "metric": "val_accuracy", "mode": "max", "probed": True}
        write_declaration(folder, {**sweep.to_json(), **digest, **probed})
        for name in sweep.precisions:
            row = {"trial_id": f"probe-{name}", "stage": "probe", "precision": name, "status": "completed"}
            self.recorder.record("trial", row | {"device": "Xeon", "route": "default"})

    def _start(self) -> None:
        nodes = {"node": PricedNode(4, 0)}
        self._journal = Journal(self.folder)
        self.meter = Meter(
            self.sweep.usd_per_hour,
            *(self.past.run_s, self.past.spent_usd, self.past.costs),
            find=nodes.get,
            clock=lambda: 3600 * self.hours,
        )
        shown = Progress(Console(file=io.StringIO()))
        self.recorder = Recorder(self._journal, shown, self.past.steps, self.past.begun, self.meter)
        self.budget = SearchBudget(self.sweep, self.meter)

    def killed(self, **changed: object) -> None:
        """Another process goes on, perhaps with another declaration."""
        self._journal._lock.close()
        self.sweep = dataclasses.replace(self.sweep, **changed)
        self.past = read_past(self.folder, self.sweep, find_task(TASK))
        self._start()

    def begins(self, name: str) -> None:
        trial = PlannedTrial(0, name, "c", "b", {"width": 4}, "fp32", 0)
        self.recorder.record("trial", rows.started(trial, "search", 4, 0))
        self.meter.begins(name, WHOLE)

    def reports(self, name: str, device: str = "Xeon", **more: object) -> None:
        self.meter.is_at(name, device, ["node"])
        if more:
            self.recorder.record("report", {"trial_id": name, "stage": "search", **more})

    def ends(self, name: str, status: str = "completed") -> None:
        self.meter.rests(name)
        row = rows.ended(name, None, status, None, "val_accuracy", "max", self.meter.usd(name))
        self.recorder.record("trial", row)

    @property
    def costs(self) -> dict[str, float | None]:
        """What the journal says of trials."""
        found = read_journal(self.folder).trials
        return {name: row.get("cost_usd") for name, row in found.items() if row["stage"] == "search"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "r")


def test_a_budget_that_was_spent_without_a_price_is_spent_in_the_next_process(run: Run) -> None:
    run.begins("a")
    run.reports("a", "L4")  # counts as the dearest
    run.hours = 1.5
    run.ends("a")
    assert run.budget.is_spent()
    assert run.costs == {"a": None}
    run.recorder.keep_costs(at_once=True)
    run.killed()
    assert run.budget.is_spent()
    run.killed(budget_usd=16)
    assert not run.budget.is_spent()


def test_hours_of_confirm_are_in_no_budget(tmp_path: Path) -> None:
    run = Run(tmp_path / "r", dataclasses.replace(SWEEP, usd_per_hour=None, budget_usd=None, budget_hours=2))
    run.hours = 2
    assert run.budget.is_spent()
    run.recorder.search_ends()
    run.hours = 7
    run.recorder.keep_costs(at_once=True)
    run.killed()
    assert run.budget.is_spent()
    run.killed(budget_hours=3)
    assert not run.budget.is_spent()
    run.hours = 8
    assert run.budget.is_spent()


def test_what_a_trial_cost_before_its_first_report_is_paid_by_the_next_process(run: Run) -> None:
    run.begins("a")
    run.hours = 1
    run.recorder.keep_costs(at_once=True)
    run.killed()
    assert run.costs == {"a": None}
    run.begins("a")
    run.hours = 3
    run.reports("a")
    run.recorder.keep_costs(at_once=True)
    assert run.costs == {"a": pytest.approx(2 * 3)}
    run.killed()
    run.begins("a")
    run.hours = 4
    run.reports("a")
    run.ends("a")
    assert run.costs == {"a": pytest.approx(2 * 4)}


def test_a_trial_that_was_lost_pays_for_no_hour_twice(run: Run) -> None:
    run.begins("a")
    run.hours = 1
    run.recorder.keep_costs(at_once=True)
    run.reports("a")
    run.ends("a", "lost")
    run.killed()
    run.begins("a")
    run.hours = 2
    run.reports("a")
    run.ends("a")
    assert run.costs == {"a": pytest.approx(2 * 2)}


def test_a_cost_that_became_unknown_stays_so(run: Run) -> None:
    run.begins("a")
    run.reports("a")
    run.hours = 1
    run.recorder.keep_costs(at_once=True)
    run.meter.rests("a")
    run.begins("a")
    run.reports("a", "L4")
    run.hours = 2
    run.recorder.keep_costs(at_once=True)
    run.killed()
    run.begins("a")
    run.reports("a")
    run.hours = 3
    run.ends("a")
    assert run.costs == {"a": None}


def test_a_probe_that_was_cut_short_is_in_the_budget(run: Run) -> None:
    write_declaration(run.folder, {**read_journal(run.folder).sweep, "probed": False})
    run.meter.charge(WHOLE, "Xeon", ["node"], 3600)
    run.hours = 1
    run.recorder.keep_costs()  # not yet
    with pytest.raises(KeyboardInterrupt), run.recorder.costs_kept():
        raise KeyboardInterrupt
    run.killed()
    assert (run.past.run_s, run.past.spent_usd) == (3600, 2.0)


def test_a_trial_that_a_spent_budget_ends_keeps_what_it_had_reached(run: Run) -> None:
    run.begins("a")
    for step, accuracy in ((10, 0.5), (20, 0.9), (30, 0.8)):
        run.reports("a", step=step, val_accuracy=accuracy)
    run.killed()
    assert run.past.reached("a") == {"val_accuracy": 0.8, "best_val_accuracy": 0.9, "steps": 30}
    assert run.past.reached("b") == {}


def test_a_search_that_was_spent_before_it_went_on_has_winners_all_the_same(run: Run) -> None:
    run.begins("a")
    run.reports("a", step=10, epoch=1, val_accuracy=0.9, val_loss=0.2)
    run.hours = 7.5
    run.recorder.keep_costs(at_once=True)
    run.killed()
    assert run.budget.is_spent()
    endings = Endings(run.recorder, Checkpoints(str(run.folder), 0, "val_accuracy", "max"))
    this = _Run(run.sweep, find_task(TASK), Home(run.folder), 4, None, run.past, run.recorder)
    this._ended_by(run.budget.spent, 4, (), endings)
    row = load(run.folder).trials.set_index("trial_id").loc["a"]
    assert (row["status"], row["status_reason"]) == ("pruned", "stopped by budget_usd 15 before it went on")
    assert (row["best_val_accuracy"], row["cost_usd"]) == (0.9, 15)
    assert [config["width"] for config in winners(run.folder, "val_accuracy", "max", 1)] == [4]


@pytest.mark.parametrize(
    ("can_grow", "said"),
    [
        (False, "8 at once, at most $6.00 an hour"),
        (True, "8 at once and more as nodes come, at most $2.00 an hour for each"),
    ],
)
def test_what_an_hour_of_the_search_costs_at_most(run: Run, can_grow: bool, said: str) -> None:
    this = _Run(run.sweep, find_task(TASK), Home(run.folder), 3, None, run.past, run.recorder)
    resources = Resources(4, 0, 8, 4, can_grow=can_grow)
    assert this._at_once(3, resources) == said.partition(",")[0]
    run.meter.rate(WHOLE, "Xeon", ["node"])
    assert this._at_once(3, resources) == said


STEPS = st.lists(
    st.tuples(st.sampled_from(["begins", "reports", "rests", "keeps", "dies"]), st.sampled_from("ab"), st.floats(0, 9)),
    max_size=15,
)


@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_whatever_befalls_a_run_nothing_is_counted_twice_or_lost(
    tmp_path_factory: pytest.TempPathFactory, steps
) -> None:
    """Each of two trials pays for the hours that it held, and the budget for both, over all processes."""
    run = Run(tmp_path_factory.mktemp("spent") / "r", dataclasses.replace(SWEEP, usd_per_hour=2.0))
    held, holding = dict.fromkeys("ab", 0.0), set()
    for what, name, hours in steps:
        run.meter.rate(WHOLE, "Xeon", ["node"])  # as the probe tells it
        run.hours += hours
        for each in holding:
            held[each] += hours
        if what == "begins":
            run.begins(name)
            holding.add(name)
        elif what == "reports":
            run.reports(name)
        else:
            run.recorder.keep_costs(at_once=True)
        if what == "rests":
            run.meter.rests(name)
            holding.discard(name)
        if what == "dies":
            run.killed()
            holding.clear()
    for name in "ab":
        run.begins(name)
        run.reports(name)
        assert run.meter.usd(name) == pytest.approx(2 * held[name])
    assert run.meter.spent_usd == pytest.approx(2 * sum(held.values()))
    assert run.meter.run_s == pytest.approx(3600 * run.hours)


def test_an_interruption_as_a_trial_begins_leaves_no_cost_without_its_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)
    spec = {"trial_id": "search-0000-fp32", "config": {"width": 4}}
    planned = PlannedTrial(0, spec["trial_id"], "abcd0123", "abcd0123-5", spec["config"], "fp32", 5)
    search = SimpleNamespace(started=lambda trial: None, trials={planned.trial_id: planned})
    callback: Any = JournalCallback(
        search, Resources(4, 0, 1, 4), "asha", run.recorder, None, SearchBudget(SWEEP, run.meter)
    )
    write = Journal.write

    def interrupted(self: Journal, *told: Any) -> None:
        monkeypatch.setattr(Journal, "write", write)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "write", interrupted)
    try:
        callback.on_trial_start(0, [], SimpleNamespace(trial_id="a", config={"spec": spec}))
    except KeyboardInterrupt:
        run.recorder.keep_costs(at_once=True)
    assert all(row.get("stage") for row in read_journal(tmp_path).trials.values())
