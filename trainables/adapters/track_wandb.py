"""A run on its way to W&B."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import wandb

from trainables.text import one_line
from trainables.tracking import TrackedRun

INIT_S = 30.0
"""How long W&B may take to begin a run before the run is kept on disk instead."""

GOOD = ("completed", "pruned", "running")
"""Ends that are no failure of a run."""


class RunTracker:
    """One run of W&B; see :class:`trainables.tracking.Tracker`.

    Where the server does not answer, or nobody is logged in, the run is kept as with ``WANDB_MODE=offline``, for
    ``wandb sync``; so are all further ones of this process, which will not fare better.
    """

    _keeps = False
    _run: Any

    def start(self, run: TrackedRun) -> str | None:
        """Begins or resumes a run, offline where it cannot be had otherwise."""
        remark = None
        try:
            self._begin(run, "offline" if RunTracker._keeps else None)
        except Exception as error:
            if RunTracker._keeps or _mode() in ("offline", "disabled"):
                raise
            self._begin(run, "offline")
            RunTracker._keeps = True
            kept = os.path.dirname(self._run.settings.sync_dir)
            remark = f"{one_line(str(error))[:300]}; runs are kept in {kept} for `wandb sync`"
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return remark

    def _begin(self, run: TrackedRun, mode: str | None) -> None:
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT") or INIT_S),
            reinit="create_new",
            x_disable_stats=True,  # of this process, which says nothing of the trial's
        )
        self._run = wandb.init(
            project=run.project,
            group=run.group,
            job_type=run.stage,
            id=run.run_id,
            name=run.name,
            dir=os.environ.get("WANDB_DIR") or (tempfile.gettempdir() if "://" in run.folder else run.folder),
            resume="allow",
            mode=mode,  # type: ignore[arg-type]
            settings=settings,
        )
        self._run.config.update(dict(run.config), allow_val_change=True)

    def report(self, row: Mapping[str, Any]) -> None:
        """Logs a report as one row of the run's history."""
        self._run.log(dict(row))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Logs a table, whose columns may hold numbers and texts side by side."""
        self._run.log(
            {name: wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)}
        )

    def finish(self, status: str, figures: Mapping[str, Any]) -> None:
        """Puts the figures into the run's summary, and ends it."""
        self._run.summary.update(dict(figures))
        self._run.finish(exit_code=0 if status in GOOD else 1)


def _mode() -> str:
    return os.environ.get("WANDB_MODE", "online")
