"""A run on its way to W&B."""

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import wandb
from wandb.sdk import wandb_setup

from trainables.text import one_line
from trainables.tracking import TrackedRun

INIT_S = 30.0
"""How long W&B may take to begin a run before the run is kept on disk instead; ``WANDB_INIT_TIMEOUT`` changes it."""

GOOD = ("completed", "pruned", "running")
"""Ends that are no failure of a run."""


class RunTracker:
    """One run of W&B; see :class:`trainables.tracking.Tracker`.

    Where the server does not answer, or nobody is logged in, the run is kept as with ``WANDB_MODE=offline``, for
    ``wandb sync``; so are all further ones of this process, which will not fare better. Where W&B's own process dies,
    the run goes on in another one, once.
    """

    _keeps: ClassVar[bool] = False
    _run: Any
    _service: Any
    _of: TrackedRun
    _has_lost_one = False

    def start(self, run: TrackedRun) -> str | None:
        """Begins or resumes a run, offline where it cannot be had otherwise."""
        self._of = run
        remark = None
        try:
            self._begin("offline" if RunTracker._keeps else None)
        except Exception as error:
            if RunTracker._keeps or os.environ.get("WANDB_MODE", "online") in ("offline", "disabled"):
                raise
            RunTracker._keeps = True
            self._renew_service()
            self._begin("offline")
            kept = os.path.dirname(self._run.settings.sync_dir)
            remark = f"{one_line(str(error))[:300]}; runs are kept in {kept} for `wandb sync`"
        self._in_spite_of_a_death(self._describe)
        return remark

    def _begin(self, mode: str | None) -> None:
        of, folder = self._of, _folder(self._of)
        if any(Path(folder).glob(f"wandb/*run-*-{of.run_id}")):
            time.sleep(1.1)  # the new part's folder is named by the second, and would be the same one
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT") or INIT_S),
            reinit="create_new",
            x_disable_stats=True,  # of this process, which says nothing of the trial's
        )
        told: dict[str, Any] = {"project": of.project, "group": of.group, "job_type": of.stage, "name": of.name}
        told["mode"] = mode
        self._run = wandb.init(**told, id=of.run_id, dir=folder, resume="allow", settings=settings)
        self._service = wandb_setup._singleton

    def _describe(self) -> None:
        self._run.config.update(dict(self._of.config), allow_val_change=True)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def report(self, row: Mapping[str, Any]) -> None:
        """Logs a report as one row of the run's history."""
        self._in_spite_of_a_death(lambda: self._run.log(dict(row)))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Logs a table, whose columns may hold numbers and texts side by side."""
        table = wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
        self._in_spite_of_a_death(lambda: self._run.log({name: table}))

    def finish(self, status: str, figures: Mapping[str, Any]) -> None:
        """Puts the figures into the run's summary, and ends it."""
        self._in_spite_of_a_death(lambda: self._run.summary.update(dict(figures)))
        self._run.finish(exit_code=0 if status in GOOD else 1)

    def _in_spite_of_a_death(self, act: Callable[[], object]) -> None:
        """Acts, and once more, in a further part of the run, where W&B's own process turns out to be dead."""
        try:
            act()
        except ConnectionError:
            if self._has_lost_one:
                raise
            self._has_lost_one = True
            self._renew_service()
            self._begin("offline" if RunTracker._keeps else None)
            self._describe()
            act()

    def _renew_service(self) -> None:
        """Has W&B start a new process of its own; the old one is dead, or calls a run in use that could not begin.

        There is no public way: ``wandb.teardown`` would wait for the other runs.
        """
        if wandb_setup._singleton is getattr(self, "_service", wandb_setup._singleton):
            os.environ.pop("WANDB_SERVICE", None)
            wandb_setup._singleton = None


def _folder(run: TrackedRun) -> str:
    return os.environ.get("WANDB_DIR") or (tempfile.gettempdir() if "://" in run.folder else run.folder)
