"""What stages decide before anything runs."""

import dataclasses
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from sweeps import Sweep, SweepError, run
from sweeps.engine import cli, confirm, confirm_plan, rows, stages, tune
from sweeps.engine.cluster import Resources
from sweeps.engine.confirm import Confirmation
from sweeps.engine.confirm_plan import Place, in_halves, searched, winners
from sweeps.engine.device_types import DeviceType
from sweeps.engine.endings import Endings
from sweeps.engine.journal import Journal, write_declaration
from sweeps.engine.probe import Usable, describe_probe, probe_spec, unprobed
from sweeps.engine.progress import Progress
from sweeps.engine.recorder import Recorder
from sweeps.engine.resume import Past
from sweeps.engine.workers import Workers
from sweeps.search.checks import Unfinished
from sweeps.search.plan import plan_confirm, search_trial
from sweeps.search.searchers import Search
from trainables.adapters.ray_tune import TuneTrial
from trainables.loading import find_task
from trainables.spec import Checkpoints


def test_halves_hold_every_block_once_and_every_configuration() -> None:
    trials = plan_confirm([{"width": 1}, {"width": 2}], ["fp32", "bf16-mixed"], num_seeds=4, sweep_seed=0)
    early, late = in_halves(trials)
    assert sorted(t.trial_id for t in early + late) == sorted(t.trial_id for t in trials)
    assert not {t.block_id for t in early} & {t.block_id for t in late}
    for half in (early, late):
        assert len({t.block_id for t in half}) == 4
        assert len({t.config_id for t in half}) == 2
    assert in_halves([]) == ([], [])
    alone = [t for t in trials if t.block_id == trials[0].block_id]
    assert in_halves(alone) == (alone, [])


@pytest.mark.parametrize("compile", [False, True])
def test_probe_and_confirm_compile_as_the_sweep_says(tmp_path: Path, compile: bool) -> None:
    task = "trainables.tasks.digits:build"
    sweep, source = Sweep(name="s", task=task, space={}, compile=compile), find_task(task)
    resources = Resources(1, 0, 1, 1)
    assert probe_spec(sweep, source, None, resources).compile is compile
    with Journal(tmp_path / "run") as journal:
        recorder = Recorder(journal, Progress(Console(quiet=True)), {}, frozenset())
        endings = Endings(recorder, Checkpoints("", 30, "val_accuracy", "max"))
        confirmation = Confirmation(sweep, source, [Place("", resources, {"fp32": "default"})], recorder, endings)
        [trial] = plan_confirm([{}], ["fp32"], num_seeds=1, sweep_seed=0)
        assert confirmation._spec(trial).compile is compile


def test_a_probe_in_a_line() -> None:
    usable = {"precision": "fp32", "status": "completed", "status_reason": None, "step_ms": 1.234, "device": "X"}
    usable["kernel"] = None
    assert describe_probe(usable | {"route": "default", "default_ms": 1.234}) == "fp32           1.23 ms a step on X"
    faster = describe_probe(usable | {"route": "channels_last", "default_ms": 1.5})
    assert faster == "fp32           1.23 ms a step by channels_last (1.5 by default) on X"
    given = describe_probe(usable | {"route": "channels_last", "default_ms": None})
    assert given == "fp32           1.23 ms a step by channels_last on X"
    served = describe_probe(usable | {"route": "default", "default_ms": None, "kernel": "oneDNN a, MKL b, oneDNN c"})
    assert served == "fp32           1.23 ms a step in oneDNN and MKL on X"
    left_out = {"precision": "tf32", "status": "unsupported", "status_reason": "why"}
    assert describe_probe(left_out) == "tf32           left out, unsupported: why"


def test_a_driver_that_comes_second_leaves_the_folder_of_the_first_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two drivers begin one run name at the same moment: both find the folder free, one gets the lock."""
    monkeypatch.setattr(stages, "new_home", lambda sweep: stages.Home(tmp_path / "first"))
    with Journal(tmp_path / "first") as first:
        first.write("trial", {"trial_id": "a", "stage": "search"})
        with pytest.raises(SweepError, match="run_name: must not be in use by another driver"):
            run(Sweep(name="s", task="trainables.tasks.digits:build", space={}, storage=str(tmp_path)))
        (file,) = (tmp_path / "first" / "journal").iterdir()
        assert "search" in file.read_text()


@pytest.mark.parametrize(("stage", "error", "kept"), [("probe", SweepError, False), ("search", Unfinished, True)])
def test_a_refused_run_keeps_its_folder_once_a_trial_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, error: type[Exception], kept: bool
) -> None:
    def refused(this: stages._Run, metric: str, mode: str, **more: object) -> None:
        this.recorder.journal.write("trial", {"trial_id": "a", "stage": stage})
        raise SweepError("planted")

    monkeypatch.setattr(stages._Run, "declare", refused)
    storage = tmp_path / "new" / "storage"
    with pytest.raises(error, match="planted"):
        run(Sweep(name="s", task="trainables.tasks.digits:build", space={}, storage=storage, run_name="r"))
    assert (storage / "r").exists() is kept
    assert (tmp_path / "new").exists() is kept


def test_winners_and_used_seeds_are_those_that_the_journal_tells_of(tmp_path: Path) -> None:
    values = {
        ("fp32", 0.1): (0.5, "completed"),
        ("fp32", 0.2): (0.9, "pruned"),
        ("fp32", 0.3): (1.0, "diverged"),
        ("bf16-mixed", 0.4): (0.7, "completed"),
        ("bf16-mixed", 0.5): (0.6, "completed"),
        ("bf16-mixed", 0.2): (None, "running"),
    }
    with Journal(tmp_path / "r") as journal:
        for index, ((precision, rate), (value, status)) in enumerate(values.items()):
            trial = search_trial(0, index, {"rate": rate, "width": 8, "name": None}, precision)
            journal.write("trial", rows.started(trial, "search", 1, 0))
            if value is not None:
                end = {"status": status, "best_val_accuracy": value, "val_accuracy": value, "val_loss": 1 - value}
                journal.write("trial", {"trial_id": trial.trial_id, **end})
    sweep = Sweep(name="s", task="t:b", space={})
    write_declaration(tmp_path / "r", sweep.to_json() | {"run_name": "r", "metric": "val_accuracy", "mode": "max"})
    best = winners(tmp_path / "r", "val_accuracy", "max", top_k=1)
    assert best == [{"rate": 0.2, "width": 8, "name": None}, {"rate": 0.4, "width": 8, "name": None}]
    assert type(best[0]["width"]) is int
    assert {row["seed"] for row in searched(tmp_path / "r")} == {search_trial(0, i, {}, "fp32").seed for i in range(6)}


class WorkersOfNoRay(Workers):
    """None, since nothing is run."""

    def start(self, count: int) -> None:
        assert count == 1


def test_a_search_that_its_searcher_ended_is_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(sweep: Sweep, source: object, search: Search, *others: object) -> None:
        search.error = SweepError("searcher: planted")

    monkeypatch.setattr(tune, "run_search", ended)
    sweep = Sweep(name="s", task="trainables.tasks.digits:build", space={}, num_trials=1)
    with Journal(tmp_path / "r") as journal:
        recorder = Recorder(journal, Progress(Console(quiet=True)))
        endings = Endings(recorder, Checkpoints(str(tmp_path), 0, "val_loss", "min"))
        this = stages._Run(sweep, find_task(sweep.task), stages.Home(tmp_path / "r"), 1, None, Past(), recorder)
        resources, usable = Resources(1, 0, 2, 2), {"X": {"fp32": "default"}}
        with pytest.raises(
            Unfinished, match=r"^searcher: planted; what was measured so far is kept, --resume"
        ) as error:
            this._search([], resources, WorkersOfNoRay(TuneTrial, resources), usable, endings)
    assert isinstance(error.value.__cause__, SweepError)


def test_an_unfinished_sweep_ends_with_exit_code_1_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unfinished(sweep: Sweep) -> None:
        raise Unfinished("searcher: planted")

    monkeypatch.setattr(stages, "run", unfinished)
    with pytest.raises(SystemExit) as ended:
        cli.main(Sweep(name="s", task="t:b", space={}), [])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: searcher: planted\n"


def test_an_interruption_says_that_the_run_can_go_on_once_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(
        name="s", task="trainables.tasks.digits:build", space={}, num_trials=0, storage=str(tmp_path), run_name="s"
    )

    def interrupted(*arguments: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(stages, "connected", interrupted)
    with pytest.raises(KeyboardInterrupt, match="is kept, --resume goes on with it"):
        run(sweep)
    going_on = dataclasses.replace(sweep, resume=True)
    assert stages.find_run(going_on) == stages.Home(tmp_path / "s")
    monkeypatch.setattr(stages, "find_run", interrupted)
    with pytest.raises(KeyboardInterrupt) as ended:
        run(going_on)
    assert not ended.value.args


@pytest.mark.parametrize("have_gone", [False, True])
def test_the_device_type_that_is_there_for_confirm_is_probed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, have_gone: bool
) -> None:
    """As where the search's nodes went away, and others came in their place, or come once they are asked for."""

    def probe(spec: object, sweep: Sweep, types: Sequence[DeviceType], resources: object, usable: Usable, *_: object):
        usable.update({each.name: {"fp32": "onednn", "bf16-mixed": "default"} for each in unprobed(types, usable)})

    found: list[Place] = []

    def confirmed(sweep: Sweep, source: object, places: Sequence[Place], *others: object) -> None:
        found.extend(places)
        raise SweepError("enough")

    nodes = ({"NodeID": "a", "Resources": {"CPU": 2}},)
    types = iter([[], [DeviceType("New CPU", nodes)]] if have_gone else [[DeviceType("New CPU", nodes)]])
    monkeypatch.setattr(confirm_plan, "device_types", lambda resources: next(types))
    monkeypatch.setattr(confirm_plan, "await_room", lambda *waiting: None)
    monkeypatch.setattr(stages, "probe_types", probe)
    monkeypatch.setattr(confirm, "Confirmation", confirmed)
    sweep = Sweep(name="s", task="trainables.tasks.digits:build", space={"width": 8}, num_trials=0)
    with Journal(tmp_path / "r") as journal:
        write_declaration(journal.folder, sweep.to_json() | {"run_name": "r", "metric": "val_loss", "mode": "min"})
        recorder = Recorder(journal, Progress(Console(quiet=True)))
        endings = Endings(recorder, Checkpoints("", 0, "val_loss", "min"))
        this = stages._Run(sweep, find_task(sweep.task), stages.Home(tmp_path / "r"), 0, None, Past(), recorder)
        with pytest.raises(SweepError, match="enough"):
            this._confirm(Resources(1, 0, 2, 2), {"Old CPU": {"fp32": "default", "bf16-mixed": "default"}}, endings)
    assert [(place.device, place.routes["fp32"]) for place in found] == [("New CPU", "onednn")]
