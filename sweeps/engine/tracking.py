"""Trackers such as W&B: which a sweep has, what its trials are told of them, and the sweep's own run there."""

import importlib.util
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.search.checks import one_of, refuse, text
from trainables.storage import is_url
from trainables.tracking import LIBRARIES, Tracking

if TYPE_CHECKING:
    import pandas as pd

    from analysis import Results
    from sweeps.engine.sweep import Sweep

ENVIRONMENT = ("WANDB_", "MLFLOW_")
"""How names of variables begin that trackers read; workers of a running cluster do not have the driver's own."""

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
        if bad := sorted(set(project) & set("/\\#?%:")):
            refuse("wandb_project", f"must not have {' '.join(bad)} in it", project, "name it by letters and hyphens")
        names = ("wandb", *(name for name in names if name != "wandb"))
    return {"track": tuple(names)}


def check_installed(sweep: "Sweep") -> None:
    """Finds out, before anything starts, whether the libraries are there.

    Raises:
        SweepError: one is not.
    """
    for name in sweep.track:
        if importlib.util.find_spec(LIBRARIES[name]) is None:
            condition = f"needs the package {LIBRARIES[name]}, which is not installed"
            refuse("track", condition, name, f'pip install "{PACKAGES[name]}", or leave it out')


def tracking_of(sweep: "Sweep", folder: Path, stage: str) -> Tracking | None:
    """What the trials of a stage are told of the sweep's trackers; ``None`` where it has none.

    Args:
        sweep: the declaration.
        folder: of the run.
        stage: ``search``, ``confirm`` or ``summary``.
    """
    if not sweep.track:
        return None
    own = {name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT)}
    kept_in = folder if not is_url(sweep.storage) else Path("runs") / folder.name  # the libraries write on a disk
    project = sweep.wandb_project or os.environ.get("WANDB_PROJECT") or sweep.name
    return Tracking(sweep.track, project, folder.name, stage, str(kept_in.resolve()), own)


def summarize(sweep: "Sweep", folder: Path, results: "Results") -> str | None:
    """Puts the sweep's declaration and verdicts into a run of their own, in the same group as the trials' runs.

    Returns:
        what went wrong with the trackers; ``None`` where nothing did.
    """
    from trainables.tracked import Tracked

    tracking = tracking_of(sweep, folder, "summary")
    if tracking is None:
        return None
    declared = {name: value for name, value in sweep.to_json().items() if value is not None and name != "stage"}
    tracked = Tracked(tracking, "summary", declared)
    if len(results.verdicts):
        tracked.table("verdicts", *as_table(results.verdicts))
    tracked.end("completed")
    has_all = tracked.wait()
    tracked.leave()
    late = f"{', '.join(sweep.track)}: not done in time; goes on for a minute, and W&B's files stay in {folder}"
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
