"""Trackers such as W&B: which a sweep has, what its trials are told of them, and the sweep's own run there."""

import hashlib
import importlib.util
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.schema import JOURNAL_DIR
from sweeps.search.checks import one_of, refuse, text
from trainables.storage import Url, is_url
from trainables.tracking import LIBRARIES, Tracking

if TYPE_CHECKING:
    import pandas as pd

    from analysis import Results
    from sweeps.engine.sweep import Sweep

ENVIRONMENT = ("WANDB_", "MLFLOW_")
"""How names of variables begin that trackers read; workers of a running cluster do not have the driver's own."""

NOT_IN_PROJECTS = "/\\#?%:"
"""What W&B refuses in a project's name."""

LONGEST_PROJECT = 128
"""Letters of it."""

PACKAGES = {"wandb": "wandb", "mlflow": "ampsweep[mlflow]", "tensorboard": "ampsweep[tensorboard]"}
"""What to install for a tracker."""


def check_tracking(sweep: "Sweep") -> dict[str, object]:
    """The fields ``track`` and ``wandb_project``, normalized: a project of W&B's alone says that W&B is wanted.

    Raises:
        SweepError: one is out of its range.
    """
    project = sweep.wandb_project
    names: object = sweep.track
    if isinstance(names, str) or not isinstance(names, Sequence):
        refuse("track", "must be a list of trackers", names, 'for example ("wandb",)')
    for name in names:
        one_of("track", name, LIBRARIES)
    if len(set(names)) < len(names):
        refuse("track", "must name each tracker once", ",".join(names), "remove the duplicates")
    if project is not None:
        text("wandb_project", project, "name a project of W&B's, or leave it out")
        if bad := sorted(set(project) & set(NOT_IN_PROJECTS)):
            refuse("wandb_project", f"must not have {' '.join(bad)} in it", project, "name it by letters and hyphens")
        if len(project) > LONGEST_PROJECT:
            refuse("wandb_project", f"must have at most {LONGEST_PROJECT} letters", project, "shorten it")
        names = ("wandb", *(name for name in names if name != "wandb"))
    return {"track": tuple(names)}


def check_installed(sweep: "Sweep") -> None:
    """Finds out, before anything starts, whether the libraries are there.

    Raises:
        SweepError: one is not.
    """
    for name in sweep.track:
        found = importlib.util.find_spec(LIBRARIES[name])
        if found is None or found.origin is None:  # without an origin it is a folder of that name, as W&B makes one
            condition = f"needs the package {LIBRARIES[name]}, which is not installed"
            refuse("track", condition, name, f'pip install "{PACKAGES[name]}", or leave it out')


def tracking_of(sweep: "Sweep", folder: Path, stage: str) -> Tracking | None:
    """What the trials of a stage are told of the sweep's trackers; ``None`` where it has none.

    Args:
        sweep: the declaration.
        folder: of the run, whose journal has begun.
        stage: ``search``, ``confirm`` or ``summary``.
    """
    if not sweep.track:
        return None
    own = {name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT)}
    store = (Url(sweep.storage) / folder.name).text if is_url(sweep.storage) else None
    kept_in = folder if store is None else Path("runs") / folder.name  # the libraries write on a disk
    project = sweep.wandb_project or os.environ.get("WANDB_PROJECT") or _as_project(sweep.name)
    where = (project, folder.name, stage, str(kept_in.resolve()), own)
    return Tracking(sweep.track, *where, token_of(folder), os.getcwd(), store)


def _as_project(name: str) -> str:
    return re.sub(f"[{re.escape(NOT_IN_PROJECTS)}]", "-", name)[:LONGEST_PROJECT]


def token_of(folder: Path) -> str:
    """What tells a run from others of its name: its first journal is named by its beginning and its driver."""
    first = min((file.name for file in (folder / JOURNAL_DIR).glob("*.jsonl")), default="")
    return hashlib.sha256(first.rpartition("-")[0].encode()).hexdigest()[:6]


def tell_end(spec: Mapping[str, Any], status: str, reason: str | None) -> None:
    """Tells trackers how a trial ended whose own process went away and could not.

    Args:
        spec: the fields of its :class:`trainables.spec.TrialSpec`.
        status, reason: as in the results.
    """
    if spec.get("tracking") is not None:
        from trainables.spec import TrialSpec
        from trainables.tracked import track

        track(TrialSpec.from_dict(spec)).end(status, reason)


def summarize(sweep: "Sweep", tracking: Tracking | None, results: "Results") -> str | None:
    """Puts the sweep's declaration and verdicts into a run of their own, in the same group as the trials' runs.

    Args:
        sweep: the declaration.
        tracking: of the stage ``summary``; ``None`` where there is none.
        results: of the sweep.

    Returns:
        what went wrong with the trackers; ``None`` where nothing did.
    """
    from trainables.tracked import Tracked

    if tracking is None:
        return None
    declared = {name: value for name, value in sweep.to_json().items() if value is not None and name != "stage"}
    tracked = Tracked(tracking, "summary", declared)
    if len(results.verdicts):
        tracked.table("verdicts", *as_table(results.verdicts))
    tracked.end("completed")
    has_all = tracked.wait()
    tracked.leave()
    late = f"{', '.join(sweep.track)}: not done in time; goes on for a minute; files stay in {tracking.folder}"
    return tracked.news() or (None if has_all else late)


def as_table(frame: "pd.DataFrame") -> tuple[list[str], list[list[Any]]]:
    """The columns and rows of a table as plain data, without columns of which nothing is known."""
    known = frame.dropna(axis="columns", how="all")
    return list(map(str, known.columns)), [[_plain(value) for value in row] for row in known.to_numpy(dtype=object)]


def _plain(value: Any) -> Any:
    """A cell as JSON has it; ``None`` where it is unknown."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)
