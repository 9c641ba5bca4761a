"""The search as Ray Tune runs it: trials in, journal rows out."""

import gc
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from ray.air.execution.resources.placement_group import PlacementGroupResourceManager
from ray.tune.experiment import Trial

from sweeps.engine.callback import JournalCallback
from sweeps.engine.cluster import Resources
from sweeps.engine.endings import Endings
from sweeps.engine.failures import MAX_FAILURES, survive_memory_kills
from sweeps.engine.recorder import Recorder
from sweeps.engine.sweep import Sweep
from sweeps.search.schedulers import Asha, make_scheduler
from sweeps.search.searchers import Search
from trainables.adapters.ray_tune import TuneTrial
from trainables.loading import TaskSource
from trainables.spec import Checkpoints, TrialSpec


def run_search(
    sweep: Sweep,
    source: TaskSource,
    search: Search,
    past: Sequence[tuple[str, str, int, float]],
    resources: Resources,
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
        recorder: takes the rows.
        endings: takes the trials that end, and says what they are ranked by.
    """
    checkpoints = endings.checkpoints
    search.to_beat = endings.to_beat
    scheduler = make_scheduler(sweep, checkpoints.metric, checkpoints.mode, sweep.max_reports)
    if isinstance(scheduler, Asha):
        scheduler.replay(past)
    name = sweep.scheduler if isinstance(sweep.scheduler, str) else type(sweep.scheduler).__name__
    callback = JournalCallback(search, resources, name, recorder, endings)
    with (
        tempfile.TemporaryDirectory(prefix="ampsweep-") as scratch,
        _quiet_tune(resources.slots),
        survive_memory_kills(),
        _ended_on_error(callback),
    ):
        tune.Tuner(
            _trainable(sweep, source, resources, checkpoints),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=scheduler,
                num_samples=search.total,
                reuse_actors=True,
                trial_dirname_creator=_trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                verbose=0,
                callbacks=[callback],
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()


def _trainable(sweep: Sweep, source: TaskSource, resources: Resources, checkpoints: Checkpoints) -> Any:
    """The trainable with what all trials share, and what each of them gets."""
    cpus, gpus = resources.num_cpus, resources.num_gpus
    template = TrialSpec("", source, {}, "", 0, sweep.budget, cpus, gpus, checkpoints=checkpoints).to_dict()
    shared = {name: template[name] for name in ("task", "budget", "num_cpus", "num_gpus", "checkpoints")}
    trainable = tune.with_parameters(TuneTrial, shared=shared)
    return tune.with_resources(trainable, {"cpu": resources.num_cpus, "gpu": resources.num_gpus})


def _trial_id(trial: Trial) -> str:
    return str(trial.config["spec"]["trial_id"])


@contextmanager
def _ended_on_error(callback: JournalCallback) -> Iterator[None]:
    """Ends the trials and frees what Tune reserved where the driver leaves early: a Ray that outlives it keeps both."""
    try:
        yield
    except BaseException:
        for actor in callback.actors - {None}:
            ray.kill(actor)
        for manager in gc.get_objects():
            if isinstance(manager, PlacementGroupResourceManager):
                manager.clear()
        raise


@contextmanager
def _quiet_tune(slots: int) -> Iterator[None]:
    """Tune without loggers, progress output and snapshots of its own: the journal is what a sweep is resumed from."""
    settings = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
        "TUNE_MAX_PENDING_TRIALS_PG": str(max(16, 2 * slots)),
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_WARN_THRESHOLD_S": "60",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that failed has no metric
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # else an interrupted search looks like a finished one
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
