"""Trackers such as W&B: what they are told of a run, and through which interface. Plain data; imports none of them."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from trainables.report import TrialReport

LIBRARIES = {"wandb": "wandb", "mlflow": "mlflow", "tensorboard": "tensorboardX"}
"""Trackers by name, and the module of the library that each writes through."""

LONGEST_ID = 64
"""Letters of a run's id; W&B takes up to 128."""

RESOURCES = ("num_cpus", "num_gpus", "num_workers")
"""What a trial's run is told of its resources, with others of which it may go on."""


@dataclass(frozen=True)
class Tracking:
    """Where the runs of a sweep are tracked.

    Args:
        trackers: names of :data:`LIBRARIES`.
        project: of W&B; MLflow calls it an experiment.
        group: what a sweep's runs are grouped by: the name of its run.
        stage: ``search``, ``confirm`` or ``summary``.
        folder: of the sweep's run, for what the libraries write into files.
        environment: variables that the libraries read, such as ``WANDB_MODE``, as the driver has them. Keys of servers
            may be among them, so they appear nowhere.
        token: tells the sweep's run from others of its name, which may go to the same project.
        directory: the driver's, where paths in the environment start.
        store: URL of the sweep's run in an object store, for the files; ``None`` where the folder is all there is. It
            may have keys, too.
    """

    trackers: tuple[str, ...]
    project: str
    group: str
    stage: str
    folder: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    token: str = ""
    directory: str = ""
    store: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers begin it, or go on with it.

    Args:
        run_id: the same whenever the run goes on, and of no other run.
        name: the trial's id, or what else the run is.
        project, group, stage, folder, store: as of :class:`Tracking`.
        config: hyperparameters, precision, seed and where the trial belongs; numbers and texts.
    """

    run_id: str
    name: str
    project: str
    group: str
    stage: str
    folder: str
    config: Mapping[str, Any]
    store: str | None = field(default=None, repr=False)


class Tracker(Protocol):
    """One run on its way to one library. Its methods may block or raise: they are called where no trial waits.

    An adapter's module has such a class by the name ``RunTracker``, which is made without arguments.
    """

    def start(self, run: TrackedRun) -> str | None:
        """Begins a run, or goes on with the one of that id; a sentence where that went other than expected."""

    def report(self, row: Mapping[str, Any]) -> None:
        """Takes one report; see :func:`report_row`."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Takes a table; what is unknown in it is ``None``."""

    def finish(self, status: str, figures: Mapping[str, Any]) -> None:
        """Ends the run, after everything that was taken is where it belongs.

        Args:
            status: as in the results; ``running`` where the run is to go on later.
            figures: of the run as a whole, by name.
        """

    def files(self) -> Iterable[Path]:
        """The files of a finished run, as far as it has any: those that no server has."""


def tracked_run(tracking: Tracking, name: str, config: Mapping[str, Any], **own: Any) -> TrackedRun:
    """A run of a sweep.

    Args:
        tracking: of the sweep.
        name: the trial's id, or what else the run is; names the run within its sweep.
        config: hyperparameters.
        own: what else is told of it, such as its precision; hyperparameters of such a name are ``config/<name>`` then.
    """
    own = {**own, "sweep": tracking.group, "stage": tracking.stage}
    told = {(f"config/{key}" if key in own else key): value for key, value in config.items()}
    where = (tracking.project, tracking.group, tracking.stage, tracking.folder)
    group = f"{tracking.group}-{tracking.token}" if tracking.token else tracking.group
    return TrackedRun(run_id(group, name), name, *where, {**told, **own}, tracking.store)


def run_id(group: str, name: str) -> str:
    """An id of letters, digits, ``-`` and ``_``; names that it cannot hold as they are have their digest in it."""
    wanted = f"{group}-{name}"
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", wanted)
    if plain == wanted and len(plain) <= LONGEST_ID:
        return plain
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:12]
    return f"{plain[: LONGEST_ID - len(digest) - 1]}-{digest}"


def report_row(report: "TrialReport") -> dict[str, Any]:
    """What trackers are told of a report: named as in the results' ``history``, the scaler's figures under ``amp/``.

    What is unknown is left out.
    """
    row = {
        "epoch": report.epoch,
        "step": report.step,
        "train_s": report.train_s,
        "train_loss": report.train_loss,
        **report.metrics,
        "learning_rate": report.learning_rate,
        "grad_norm": report.grad_norm,
        "amp/effective_precision": report.effective_precision,
        "amp/effective_share": report.effective_share,
        "amp/loss_scale": report.loss_scale,
        "amp/loss_scale_min": report.loss_scale_min,
        "amp/skipped_steps": report.skipped_steps,
        "samples_per_s": report.interval_samples_per_s,
        "steps_per_s": report.interval_steps_per_s,
        "applied_steps_per_s": report.interval_applied_steps_per_s,
        "data_wait_share": report.interval_data_wait_share,
        "step_ms": report.step_ms,
        "peak_memory_bytes": report.peak_memory_bytes,
        "peak_reserved_bytes": report.peak_reserved_bytes,
    }
    return {name: value for name, value in row.items() if value is not None}


def end_figures(report: "TrialReport | None", status: str, reason: str | None) -> dict[str, Any]:
    """What trackers are told of a trial as a whole, at its end.

    Without a reason an empty one takes the place of that of a former end, as of a trial that was lost and has gone on.
    """
    figures: dict[str, Any] = {"status": status, "status_reason": reason or ""}
    if report is not None:
        names = ("wall_s", "applied_steps", "route", "compiled", "device", "node", "init_digest", "data_digest")
        figures |= {name: getattr(report, name) for name in names}
        figures |= {f"highest/{name}": value for name, value in report.highest.items()}
        figures |= {f"lowest/{name}": value for name, value in report.lowest.items()}
    return {name: value for name, value in figures.items() if value is not None}
