"""A run on its way to TensorBoard's event files."""

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainables.tracking import TrackedRun

# tensorboardX imports PyTorch where it can, which takes seconds and hundreds of megabytes, and needs it for tensors.
sys.modules.setdefault("torch", None)  # type: ignore[arg-type]

from tensorboardX import SummaryWriter  # noqa: E402


class RunTracker:
    """One folder of event files; see :class:`trainables.tracking.Tracker`."""

    _writer: Any
    _step = 0

    def start(self, run: TrackedRun) -> None:
        """Begins a further file in the run's folder."""
        folder = f"{run.folder}{os.sep}tensorboard{os.sep}{run.name}"
        # By itself the file is named by the second, and would take the place of one that was begun in the same.
        self._writer = SummaryWriter(folder, write_to_disk=True, filename_suffix=f".{time.time_ns()}")
        self._writer.add_text("config", markdown(("name", "value"), list(run.config.items())), 0)
        self._writer.flush()

    def report(self, row: Mapping[str, Any]) -> None:
        """Writes a report's numbers, each as a curve over steps, and its texts."""
        self._step = row["step"]
        for name, value in row.items():
            if isinstance(value, str):
                self._writer.add_text(name, value, self._step)
            else:
                self._writer.add_scalar(name, value, self._step)
        self._writer.flush()

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Writes a table as Markdown, which TensorBoard shows as one."""
        self._writer.add_text(name, markdown(columns, rows), self._step)

    def finish(self, status: str, figures: Mapping[str, Any]) -> None:
        """Writes the figures as a table, and closes the file."""
        self._writer.add_text("end", markdown(("name", "value"), list(figures.items())), self._step)
        self._writer.close()

    def files(self) -> Iterable[Path]:
        """The event files, with those that others of the run's processes have left here."""
        return Path(self._writer.logdir).glob("events.out.*")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    cells = [list(columns), ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in cells)


def _cell(value: Any) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
