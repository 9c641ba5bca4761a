"""A run on its way to W&B."""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import wandb
from wandb.sdk import wandb_setup

from trainables.text import one_line
from trainables.tracking import TrackedRun

INIT_S = 30.0
"""How long W&B may take to begin a run before the run is kept on disk instead; ``WANDB_INIT_TIMEOUT`` changes it."""

DEATHS = ("MailboxClosedError", "HandleAbandonedError")
"""What W&B raises, beside a ``ConnectionError``, where its own process dies; by name, since they are not public."""

WRITE_S = 3.0
"""How long W&B's own process is waited for to write a run's last records, which takes it milliseconds."""

EXITS = (b"\x92\x01\x00", b"\x92\x01\x02\x08\x01")
"""How a run's file ends once all is in it: with its exit, field 18 of W&B's records, by code 0 or 1."""

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
    _service: Any = None
    _of: TrackedRun
    _has_lost_one = False

    def start(self, run: TrackedRun) -> str | None:
        """Begins or resumes a run, offline where it cannot be had otherwise."""
        self._of, mode = run, _mode()
        try:
            self._begin_in_spite_of_a_death(mode)
        except Exception as error:
            if mode == "offline" or os.environ.get("WANDB_MODE", "online") in ("offline", "disabled"):
                raise
            RunTracker._keeps = True
            self._renew_service()
            self._begin("offline")
            kept = os.path.dirname(self._run.settings.sync_dir)
            return f"{one_line(str(error))[:300]}; runs are kept in {kept} for `wandb sync`"
        return None

    def _begin(self, mode: Literal["offline"] | None) -> None:
        of, folder = self._of, _folder(self._of)
        if any(Path(folder).glob(f"wandb/*run-*-{of.run_id}")):
            time.sleep(1.1)  # the new part's folder is named by the second, and would be the same one
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            reinit="create_new",
            x_disable_stats=True,  # of this process, which says nothing of the trial's
        )
        told: dict[str, Any] = {"project": of.project, "group": of.group, "job_type": of.stage, "name": of.name}
        told["mode"] = mode
        if not os.environ.get("WANDB_INIT_TIMEOUT"):
            settings.init_timeout = INIT_S
        self._service = wandb.setup()
        self._run = wandb.init(**told, id=of.run_id, dir=folder, resume="allow", settings=settings)
        self._run.config.update(dict(of.config), allow_val_change=True)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def _begin_in_spite_of_a_death(self, mode: Literal["offline"] | None) -> None:
        """Begins, and once more where W&B's own process dies meanwhile."""
        try:
            self._begin(mode)
        except Exception as error:
            self._lose_service(error)
            self._begin(mode)

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
        self._in_spite_of_a_death(lambda: self._run.finish(exit_code=0 if status in GOOD else 1))

    def files(self) -> Iterable[Path]:
        """The files of the run's parts that are kept for ``wandb sync``, once they are whole."""
        if self._run.offline:
            _await_end(Path(self._run.settings.sync_file))
        parts = Path(_folder(self._of)).glob(f"wandb/offline-run-*-{self._of.run_id}")
        return [file for part in parts for file in part.rglob("*") if file.is_file()]

    def _in_spite_of_a_death(self, act: Callable[[], object]) -> None:
        """Acts, and once more, in a further part of the run, where W&B's own process turns out to be dead."""
        try:
            act()
        except Exception as error:
            self._lose_service(error)
            self._begin(_mode())
            act()

    def _lose_service(self, error: Exception) -> None:
        """Takes an error that tells of the death of W&B's own process; raises any other, and the second of these."""
        tells = isinstance(error, ConnectionError) or type(error).__name__ in DEATHS
        if self._has_lost_one or not tells:
            raise error
        self._has_lost_one = True
        self._renew_service()

    def _renew_service(self) -> None:
        """Has W&B start a new process of its own; the old one is dead, or calls a run in use that could not begin.

        There is no public way: ``wandb.teardown`` would wait for the other runs.
        """
        if wandb_setup._singleton is self._service:  # else another run has seen to it
            os.environ.pop("WANDB_SERVICE", None)
            wandb_setup._singleton = None


def _await_end(file: Path) -> None:
    """Waits until a run's file is whole: ``finish`` returns before W&B's own process has written the last of it."""
    deadline = time.monotonic() + WRITE_S
    while time.monotonic() < deadline and not has_ended(file):
        time.sleep(0.02)


def has_ended(file: Path) -> bool:
    """Whether a run's file is written to its end."""
    with contextlib.suppress(OSError), file.open("rb") as content:
        content.seek(max(0, file.stat().st_size - 16))
        return content.read().endswith(EXITS)
    return False


def _mode() -> Literal["offline"] | None:
    return "offline" if RunTracker._keeps else None


def _folder(run: TrackedRun) -> str:
    return os.environ.get("WANDB_DIR") or run.folder
