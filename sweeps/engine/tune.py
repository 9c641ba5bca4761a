"""The search as Ray Tune runs it: trials in, journal rows out."""

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sweeps.engine.callback import JournalCallback
from sweeps.engine.cluster import Resources
from sweeps.engine.controller import run_trials
from sweeps.engine.endings import Endings
from sweeps.engine.failures import MAX_FAILURES, survive_memory_kills
from sweeps.engine.metric import stopping
from sweeps.engine.recorder import Recorder
from sweeps.engine.sweep import Sweep
from sweeps.engine.tracking import tracking_of
from sweeps.engine.workers import Workers
from sweeps.search.asha import Asha
from sweeps.search.schedulers import make_scheduler
from sweeps.search.searchers import Search
from trainables.loading import TaskSource
from trainables.spec import Checkpoints, TrialSpec


def run_search(
    sweep: Sweep,
    source: TaskSource,
    search: Search,
    past: Sequence[tuple[str, str, int, float]],
    resources: Resources,
    workers: Workers,
    routes: Mapping[str, str],
    recorder: Recorder,
    endings: Endings,
) -> None:
    """Runs the trials of a search on the cluster, pruned by the sweep's scheduler, and records all that they report.

    Args:
        sweep: its scheduler and budget.
        source: the task.
        search: what to run.
        past: reports from before an interruption, as :class:`sweeps.engine.resume.Past` keeps them.
        resources: of each trial.
        workers: that the trials run in.
        routes: precision -> its kernel route.
        recorder: takes the rows.
        endings: takes the trials that end, and says what they are ranked by.
    """
    checkpoints = endings.checkpoints
    template = _template(sweep, source, resources, recorder, checkpoints)
    search.template, search.routes, search.to_beat = template.to_dict(), routes, endings.to_beat
    scheduler = make_scheduler(sweep, checkpoints.metric, checkpoints.mode, sweep.max_reports)
    if isinstance(scheduler, Asha):
        scheduler.replay(past)
    name = sweep.scheduler if isinstance(sweep.scheduler, str) else type(sweep.scheduler).__name__
    callback = JournalCallback(search, resources, name, recorder, endings)
    with tempfile.TemporaryDirectory(prefix="ampsweep-") as scratch, _quiet_tune(), survive_memory_kills():
        run_trials(
            workers,
            search,
            scheduler,
            callback,
            num_trials=search.total,
            max_pending=max(16, 2 * resources.slots),
            max_failures=MAX_FAILURES,
            folder=scratch,
        )


def _template(
    sweep: Sweep, source: TaskSource, resources: Resources, recorder: Recorder, checkpoints: Checkpoints
) -> TrialSpec:
    """What all trials of the search share."""
    return TrialSpec(
        "",
        source,
        {},
        "",
        0,
        sweep.budget,
        resources.num_cpus,
        resources.num_gpus,
        resources.num_workers,
        compile=sweep.compile,
        checkpoints=checkpoints,
        stopping=stopping(sweep, checkpoints.metric, checkpoints.mode),
        tracking=tracking_of(sweep, recorder.journal.folder, "search"),
    )


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
