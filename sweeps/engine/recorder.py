"""Where all that happens in a sweep goes: into the journal, and from there to whoever watches."""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from analysis.schema import Kind
from sweeps.engine.journal import Journal
from sweeps.engine.meter import Meter
from sweeps.engine.progress import Progress
from trainables.text import one_line

KEEP_COSTS_EVERY_S = 10.0
"""What running trials have cost since then goes with a driver that is killed."""


class Recorder:
    """Writes rows to the journal first and shows them afterwards.

    A trial that goes on after an interruption shows again what it had reported; what is in the journal is not written
    twice, so that it stays as it was.

    Args:
        journal: keeps them.
        progress: shows them.
        steps: trial -> the last step that is in the journal already.
        begun: trials whose beginning is in it.
        meter: counts what they cost.
    """

    def __init__(
        self,
        journal: Journal,
        progress: Progress,
        steps: Mapping[str, int] | None = None,
        begun: Collection[str] = (),
        meter: Meter | None = None,
    ) -> None:
        self.journal = journal
        self.progress = progress
        self._steps = dict(steps or {})
        self._begun = set(begun)
        self._warned: set[str] = set()
        self.meter = meter or Meter()
        self._kept_s = time.monotonic()
        self._is_searching = True

    def record(self, kind: Kind, row: Mapping[str, Any]) -> None:
        """One fact."""
        if kind == "report" and not self._is_new(row):
            return
        if kind == "trial" and row.get("status") == "running":
            row = self._first_or_again(row)
        self.journal.write(kind, row)
        self.progress.saw(kind, row)
        for device in self.meter.unpriced:
            self.warn(
                f"usd_per_hour has no price for {device}, or several alike: what runs on it cost is unknown, "
                "and a budget counts the highest price"
            )

    def warn(self, warning: str | None) -> None:
        """Shows what went wrong beside the trials, such as ``"wandb: ..."``, once for each that it went wrong with."""
        where = warning and warning.partition(":")[0]
        if warning and where and where not in self._warned:
            self._warned.add(where)
            self.progress.say(f"  {one_line(warning)}")

    @contextmanager
    def costs_kept(self) -> Iterator[None]:
        """Writes them at the end, too, be it an interruption."""
        try:
            yield
        finally:
            self.keep_costs(at_once=True)

    def keep_costs(self, at_once: bool = False) -> None:
        """Writes what running trials have cost so far, and what the search has spent, every few seconds.

        Args:
            at_once: whatever the time.
        """
        if not at_once and time.monotonic() - self._kept_s < KEEP_COSTS_EVERY_S:
            return
        self._kept_s = time.monotonic()
        for name, kept in self.meter.kept().items():
            self.journal.write("trial", {"trial_id": name, **kept})
        if self._is_searching:
            self.journal.write("spent", {"run_s": self.meter.run_s, "usd": self.meter.spent_usd})

    def search_ends(self) -> None:
        """What comes now is in no budget."""
        self.keep_costs(at_once=True)
        self._is_searching = False

    def begins_anew(self, trial_id: str) -> None:
        """Takes all reports of a trial to come, whatever their step."""
        self._steps.pop(trial_id, None)

    def _is_new(self, report: Mapping[str, Any]) -> bool:
        trial_id, step = report["trial_id"], report["step"]
        if step <= self._steps.get(trial_id, -1):
            return False
        self._steps[trial_id] = step
        return True

    def _first_or_again(self, started: Mapping[str, Any]) -> Mapping[str, Any]:
        trial_id = started["trial_id"]
        if trial_id not in self._begun:
            self._begun.add(trial_id)
            return started
        return {name: value for name, value in started.items() if name != "started_at"} | dict.fromkeys(_ENDED)


_ENDED = ("status_reason", "ended_at")
"""Columns that a trial which runs again loses."""
