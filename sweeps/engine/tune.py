"""The search as Ray Tune runs it: trials in, journal rows out."""

import logging
import os
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeps.engine.callback import JournalCallback, unwrapped
from sweeps.engine.cluster import Resources
from sweeps.engine.controller import run_trials
from sweeps.engine.endings import Endings
from sweeps.engine.failures import survive_memory_kills
from sweeps.engine.metric import stopping
from sweeps.engine.probe import Usable, by_precision
from sweeps.engine.recorder import Recorder
from sweeps.engine.search_budget import SearchBudget
from sweeps.engine.sweep import Sweep
from sweeps.engine.tracking import tracking_of
from sweeps.engine.workers import Workers
from sweeps.search.asha import Asha
from sweeps.search.schedulers import make_scheduler
from sweeps.search.searchers import Search
from trainables.loading import TaskSource
from trainables.spec import Checkpoints, TrialSpec

GROWING = 200
"""Trials that wait at once where nodes may be added, for the autoscaler to see what could be used; as many as Tune has
by default, since nodes take minutes to come."""


def run_search(
    sweep: Sweep,
    source: TaskSource,
    search: Search,
    past: Sequence[tuple[str, str, int, float]],
    resources: Resources,
    workers: Workers,
    usable: Usable,
    recorder: Recorder,
    endings: Endings,
    budget: SearchBudget | None = None,
) -> Collection[str]:
    """Runs the trials of a search on the cluster, pruned by the sweep's scheduler, and records all that they report.

    Args:
        sweep: its scheduler and budget.
        source: the task.
        search: what to run.
        past: reports from before an interruption, as :class:`sweeps.engine.resume.Past` keeps them.
        resources: of each trial.
        workers: that the trials run in.
        usable: the kernel routes of the precisions that device types can use.
        recorder: takes the rows.
        endings: takes the trials that end, and says what they are ranked by.
        budget: ends the search once it is spent; default: the sweep's.

    Returns:
        ids of the trials that began.

    Raises:
        Unfinished: the storage can no longer be written.
    """
    budget = budget or SearchBudget(sweep, recorder.meter)
    ranks = endings.checkpoints
    search.template = _template(sweep, source, resources, ranks, recorder.journal.folder).to_dict()
    search.routes, search.to_beat = by_precision(usable), endings.to_beat
    scheduler = make_scheduler(sweep, ranks.metric, ranks.mode, sweep.max_reports)
    if isinstance(scheduler, Asha):
        scheduler.replay(past)
    callback = JournalCallback(search, resources, _name_of(sweep.scheduler), recorder, endings, budget)
    with tempfile.TemporaryDirectory(prefix="ampsweep-") as scratch, _quiet_tune(), survive_memory_kills(), unwrapped():
        run_trials(
            *(workers, search, scheduler, callback),
            num_trials=search.total,
            max_pending=GROWING if resources.can_grow else max(16, 2 * resources.slots),
            folder=scratch,
            is_over=budget.is_spent,
            on_rest=callback.on_trial_rest,
        )
    return callback.begun


def _name_of(scheduler: str | object) -> str:
    return scheduler if isinstance(scheduler, str) else type(scheduler).__name__


def _template(
    sweep: Sweep, source: TaskSource, resources: Resources, checkpoints: Checkpoints, folder: Path
) -> TrialSpec:
    """What all trials of the search have in common."""
    where = (resources.num_cpus, resources.num_gpus, resources.num_workers)
    how: dict[str, Any] = {
        "compile": sweep.compile,
        "fsdp": sweep.fsdp,
        "checkpoints": checkpoints,
        "stopping": stopping(sweep, checkpoints.metric, checkpoints.mode),
        "tracking": tracking_of(sweep, folder, "search"),
    }
    return TrialSpec("", source, {}, "", 0, sweep.budget, *where, **how)


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Tune without output of its own."""
    settings = {
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_WARN_THRESHOLD_S": "60",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that failed has no metric
    }
    before = {name: os.environ.get(name) for name in settings}
    loggers = {name: logging.getLogger(name).level for name in ("ray.tune", "ray.train")}
    os.environ.update(settings)
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in loggers.items():
            logging.getLogger(name).setLevel(level)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
