"""Draws of the liars, trials of them, and their arms confirmed without Ray: the same functions, one after the other."""

import functools
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import load
from analysis.schema import EXAMPLES_DIR, Stage
from sweeps import Confirm, Sweep
from sweeps.engine import rows
from sweeps.engine.journal import Journal, write_declaration
from sweeps.search.plan import plan_confirm
from trainables import clocks, pairs
from trainables.loading import TaskSource, find_task, load_function
from trainables.report import TrialReport
from trainables.spec import Budget, TimingJob, TrialSpec
from trainables.trial import run_trial

TASKS = Path(__file__).parent / "tasks.py"
DRAWS = range(3)
"""Every case is drawn anew so many times."""

BOTH = ("fp32", "bf16-mixed")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "draw" in metafunc.fixturenames:
        metafunc.parametrize("draw", DRAWS, indirect=True)


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    """A generator of its own for every test and draw."""
    return random.Random(f"{request.node.originalname} {request.param}")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


def widths(draw: random.Random) -> list[int]:
    """Of one to three hidden layers."""
    return [draw.randrange(16, 56, 8) for _ in range(draw.randint(1, 3))]


@functools.cache
def source() -> TaskSource:
    return find_task(f"{TASKS}:build")


def spec(case: str, draw: random.Random, precision: str, max_steps: int = 3, **config: Any) -> TrialSpec:
    """A short trial of a case."""
    config = {"widths": widths(draw), **config}
    config |= {"case": case, "learning_rate": 1e-3, "batch_size": 16}
    budget = Budget(max_steps=max_steps, report_every_steps=max_steps)
    return TrialSpec("trial", source(), config, precision, draw.randrange(1000), budget)


def last_report(spec: TrialSpec) -> TrialReport:
    return list(run_trial(spec))[-1]


def liar_and_twin(case: str, draw: random.Random, precision: str, **fields: Any) -> tuple[TrialReport, TrialReport]:
    """The last report of the liar, and that of its twin, which differs in the lie alone."""
    state = draw.getstate()
    reports = []
    for lies in (True, False):
        draw.setstate(state)
        reports.append(last_report(spec(case, draw, precision, lies=lies, **fields)))
    return reports[0], reports[1]


@pytest.fixture
def virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time as the tasks spend it, for verdicts that no other work on this machine can change."""
    tasks = load_function(source()).__globals__
    spent = SimpleNamespace(perf_counter=lambda: tasks["SPENT_S"], process_time=time.process_time)
    for module in (pairs, clocks):
        monkeypatch.setattr(module, "time", spent)
    monkeypatch.setattr(pairs, "waiting_ns", dict)
    monkeypatch.setattr(pairs, "MIN_STEPS", 4)


Confirmed = Callable[..., "pd.Series[Any]"]


@pytest.fixture
def confirmed(tmp_path: Path) -> Confirmed:
    """Runs and times a configuration's arms with some seeds, as confirm does, and gives the verdict."""
    num_folders = 0

    def confirm(
        config: dict[str, Any], num_seeds: int = 3, target: float = 1.5, margin: float = 0.1, **run: Any
    ) -> Any:
        nonlocal num_folders
        num_folders += 1
        folder = tmp_path / str(num_folders)
        wanted = Confirm(num_seeds=num_seeds, target_speedup=target, margin=margin)
        sweep = Sweep(name="liars", task=source().name, space={}, precisions=BOTH, confirm=wanted)
        with Journal(folder) as journal:
            declared = {"run_name": "liars", "metric": "val_accuracy", "mode": "max"}
            write_declaration(folder, sweep.to_json() | declared)
            planned = plan_confirm([config], BOTH, num_seeds, sweep.seed)
            for trial in planned:
                _run(journal, trial, **run)
            for block in {trial.block_id: trial for trial in planned}.values():
                own = {"block_id": block.block_id, "config_id": block.config_id, "seed": block.seed}
                job = TimingJob(TrialSpec("block", source(), config, "", block.seed, Budget()), BOTH, windows=2)
                journal.write("timing", own | pairs.time_block(job))
        (verdict,) = load(folder).verdicts.query("config_id != 'best'").to_dict("records")
        return pd.Series(verdict)

    return confirm


def _run(journal: Journal, trial: Any, stage: Stage = "confirm", cut_short: Sequence[int] = ()) -> None:
    """A full run's rows; as if of another stage, and pruned where its seed is one of those to be cut short."""
    own = TrialSpec(
        trial.trial_id,
        source(),
        trial.config,
        trial.precision,
        trial.seed,
        Budget(max_epochs=3),
        examples_of="val_accuracy",
    )
    journal.write("trial", rows.started(trial, stage, 1, 0))
    found = last_report(own).to_dict()
    if found["examples"] is not None:
        (journal.folder / EXAMPLES_DIR).mkdir(exist_ok=True)
        np.save(journal.folder / EXAMPLES_DIR / f"{trial.trial_id}.npy", found["examples"])
    status = "pruned" if trial.seed in cut_short else found["status"]
    ended = rows.ended(trial.trial_id, found, status, found["status_reason"], "val_accuracy", "max")
    journal.write("trial", ended)
