"""Loading sweeps: `load`, and the `Results` that it gives."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.arms import arms
from analysis.frames import history_frame, timings_frame, trials_frame
from analysis.journal import Journal, read_journal
from analysis.schema import EXAMPLES_DIR, refuse
from analysis.summary import Best, best, summary


@dataclass(frozen=True)
class Results:
    """What one sweep, or several, measured.

    Args:
        sweeps: the declarations, as resolved; ``run_name`` is the value of the tables' column ``sweep``.
        trials: a row for every launched trial, and one of stage ``probe`` per precision.
        history: a row for every report.
        timings: a row for every timing process and arm.
        folders: run name -> the sweep's folder.
    """

    sweeps: list[dict[str, Any]]
    trials: pd.DataFrame
    history: pd.DataFrame
    timings: pd.DataFrame
    folders: dict[str, Path] = field(default_factory=dict)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """A row for every (device, baseline, precision, configuration) confirmed, and the rows of the best ones."""
        return pd.concat([self._verdicts_of(sweep) for sweep in self.sweeps], ignore_index=True)

    @cached_property
    def arms(self) -> pd.DataFrame:
        """A row for every (device, configuration, precision) confirmed: its route, time, memory, loss and metric."""
        parts = [arms(self._of(self.trials, s), self._of(self.timings, s), s) for s in self.sweeps]
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What each stage cost: a row for every sweep and stage, timed blocks apart; see `analysis.costs.costs`."""
        from analysis.costs import costs

        parts = [costs(self._of(self.trials, s), self._of(self.timings, s), s["run_name"]) for s in self.sweeps]
        return pd.concat(parts, ignore_index=True)

    def examples(self, trial_id: str, sweep: str | None = None) -> "NDArray[np.float64] | None":
        """The metric per validation example of a trial of the confirm stage.

        Args:
            trial_id: the trial.
            sweep: its run name; needed where several sweeps are loaded.

        Returns:
            (num_val_examples,), or ``None`` where it is not recorded.

        Raises:
            ResultsError: several sweeps are loaded and ``sweep`` names none of them, or the array cannot be read.
        """
        file = self._folder(sweep) / EXAMPLES_DIR / f"{trial_id}.npy"
        try:
            return np.load(file, allow_pickle=False).astype(np.float64, copy=False)  # type: ignore[no-any-return]
        except FileNotFoundError:
            return None
        except (ValueError, EOFError) as error:
            refuse(str(file), "must be a NumPy array", str(error), "restore the file or delete it")

    def interaction(self) -> pd.DataFrame:
        """Whether the best hyperparameters of a baseline stay the best in the other precisions.

        Returns:
            a row for every (baseline, precision, hyperparameter); see `analysis.interaction.interaction`.
        """
        from analysis.interaction import interaction

        parts = [interaction(self._of(self.trials, s), self._of(self.history, s), s) for s in self.sweeps]
        return pd.concat(parts, ignore_index=True)

    def summary(self, by: str | Sequence[str] = "precision") -> pd.DataFrame:
        """Exploratory figures per group over all trials of search and confirm; see `analysis.summary.summary`.

        Args:
            by: columns of ``trials``. Sweeps of different metrics are told apart by their column ``sweep``.

        Raises:
            ResultsError: ``by`` is not a column.
        """
        keys = [by] if isinstance(by, str) else list(by)
        metrics = list(dict.fromkeys((sweep["metric"], sweep["mode"]) for sweep in self.sweeps))
        if len(metrics) == 1:
            return summary(self.trials, keys, *metrics[0])
        keys = ["sweep", *(key for key in keys if key != "sweep")]
        parts = [summary(self._of(self.trials, sweep), keys, sweep["metric"], sweep["mode"]) for sweep in self.sweeps]
        table = pd.concat(parts, ignore_index=True)
        table.attrs = parts[0].attrs
        return table

    def best(self, precision: str | None = None) -> Best:
        """The best trial of search and confirm, over all or of one precision; see `analysis.summary.best`.

        Raises:
            ResultsError: no trial has the metric, or the sweeps' metrics differ.
        """
        metrics = {(sweep["metric"], sweep["mode"]) for sweep in self.sweeps}
        if len(metrics) > 1:
            refuse("best", "must be asked of sweeps of one metric", sorted(metrics), "load them one by one")
        return best(self.trials, *metrics.pop(), precision)

    def _of(self, table: pd.DataFrame, sweep: dict[str, Any]) -> pd.DataFrame:
        rows: pd.DataFrame = table[table["sweep"] == sweep["run_name"]]
        return rows

    def _verdicts_of(self, sweep: dict[str, Any]) -> pd.DataFrame:
        from analysis.verdicts import verdicts  # SciPy, which reading alone does not need

        def examples(trial_id: str) -> "NDArray[np.float64] | None":
            return self.examples(trial_id, sweep["run_name"])

        trials, history, timings = (self._of(table, sweep) for table in (self.trials, self.history, self.timings))
        return verdicts(trials, history, timings, examples, sweep)

    def _folder(self, sweep: str | None) -> Path:
        name = sweep if sweep is not None or len(self.folders) != 1 else next(iter(self.folders))
        if name is None or name not in self.folders:
            refuse("sweep", "must be among the loaded ones", sweep, f"pass one of {', '.join(self.folders)}")
        return self.folders[name]


def load(*paths: str | os.PathLike[str]) -> Results:
    """The results of sweeps, finished or still running.

    Args:
        paths: the sweeps' folders, such as ``runs/digits-20261123-101500``; their tables are stacked.

    Raises:
        ResultsError: no folder is given, or one of them holds no results that this version can read.
    """
    if not paths:
        refuse("results", "must name at least one folder", None, "pass a sweep's, such as runs/digits-20261123-101500")
    journals = [read_journal(path) for path in paths]
    folders = {journal.run_name: journal.folder for journal in journals}
    if len(folders) < len(journals):
        names = [journal.run_name for journal in journals]
        refuse("results", "must be of runs with different names", names, "load those of one name one by one")
    return _results(journals, folders)


def nothing_measured(declaration: dict[str, Any]) -> Results:
    """The results of a sweep of which nothing has run, with all columns and no rows.

    Args:
        declaration: as in a ``sweep.json``.
    """
    return _results([Journal(Path(), declaration)], {})


def _results(journals: list[Journal], folders: dict[str, Path]) -> Results:
    return Results(
        sweeps=[journal.sweep for journal in journals],
        trials=trials_frame(journals),
        history=history_frame(journals),
        timings=timings_frame(journals),
        folders=folders,
    )
