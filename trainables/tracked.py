"""A trial as its process tells trackers of it: at no cost to the trial, whatever becomes of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trainables.courier import PATIENCE_S, Courier
from trainables.tracking import RESOURCES, TrackedRun, Tracking, end_figures, report_row, tracked_run

if TYPE_CHECKING:
    from trainables.report import TrialReport
    from trainables.spec import TrialSpec

LOST = ("lost", "its process went away or was interrupted")
"""How a run ends of which nobody says how it ended."""


class Outbox:
    """What this process tells trackers, through one :class:`~trainables.courier.Courier` for all of its runs."""

    def __init__(self) -> None:
        self._courier: Courier | None = None
        self._late: tuple[Courier, int] | None = None
        self._said: set[str] = set()

    def begin(self, tracking: Tracking, run: TrackedRun) -> tuple[Courier, int]:
        """Begins a run: where its messages go, and by which number."""
        courier = self._courier
        if courier is None or courier.tracking.environment != tracking.environment or courier.is_lost:
            self.leave()
            courier = self._courier = Courier(tracking)
        number = courier.begin()
        courier.send("start", number, trackers=tracking.trackers, tracked=asdict(run))
        return courier, number

    def wait(self, courier: Courier, number: int, seconds: float) -> bool:
        """Waits for the end of a run, but for none while an earlier one is late; whether it came."""
        if self._late is not None and self._late[0].is_open(self._late[1]):
            return not courier.is_open(number)
        self._late = None if courier.wait(number, seconds) else (courier, number)
        return self._late is None

    def news(self, courier: Courier) -> str | None:
        """What went wrong, each thing once in this process; ``None`` where nothing did."""
        new = [warning for warning in courier.warnings() if warning not in self._said]
        self._said.update(new)
        return "; ".join(new) or None

    def leave(self) -> None:
        """Lets the trackers' process end when it is done; a further run has a new one."""
        if self._courier is not None:
            self._courier.leave()
            self._courier = None


_OUTBOX = Outbox()


class Tracked:
    """One run as trackers see it.

    Args:
        tracking: where it is tracked; ``None`` where it is not.
        name: the trial's id, or what else the run is.
        config: hyperparameters.
        own: what else is told of it; see :func:`trainables.tracking.tracked_run`.
    """

    def __init__(self, tracking: Tracking | None, name: str, config: Any, **own: Any) -> None:
        self._last: TrialReport | None = None
        self._courier: Courier | None = None
        self._is_over = tracking is None
        if tracking is not None:
            self._courier, self._number = _OUTBOX.begin(tracking, tracked_run(tracking, name, config, **own))

    def saw(self, report: "TrialReport") -> str | None:
        """Tells of a report, and of the run's end where it is the last.

        Returns:
            what went wrong with the trackers since the last time.
        """
        if self._courier is None:
            return None
        self._last = report
        if report.metrics:
            self._courier.send("report", self._number, row=report_row(report))
        if report.is_last:
            self.end(report.status, report.status_reason)
        return self.news()

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Tells of a table."""
        if self._courier is not None:
            self._courier.send("table", self._number, name=name, columns=columns, rows=rows)

    def end(self, status: str, reason: str | None = None) -> None:
        """Says how the run ended, unless that has been said; ``running`` where it is to go on later."""
        if self._courier is not None and not self._is_over:
            figures = end_figures(self._last, status, reason)
            self._courier.send("finish", self._number, status=status, figures=figures)
        self._is_over = True

    def wait(self, seconds: float = PATIENCE_S) -> bool:
        """Waits until the trackers have all of it, but no longer than that; whether they have."""
        return self._courier is None or _OUTBOX.wait(self._courier, self._number, seconds)

    def leave(self) -> None:
        """Says that this was the last run of this process, for now."""
        _OUTBOX.leave()

    def news(self) -> str | None:
        """What went wrong with the trackers since the last time, be it with this run or one before."""
        return None if self._courier is None else _OUTBOX.news(self._courier)


def track(spec: "TrialSpec") -> Tracked:
    """A trial as trackers see it."""
    own = {"trial_id": spec.trial_id, "precision": spec.precision, "seed": spec.seed, "task": spec.task.name}
    resources = {name: getattr(spec, name) for name in RESOURCES}
    return Tracked(spec.tracking, spec.trial_id, spec.config, **own, **resources)


@contextmanager
def tracked_while(spec: "TrialSpec") -> Iterator[Tracked]:
    """A trial as trackers see it, who are waited for at its end."""
    tracked = track(spec)
    try:
        yield tracked
    finally:
        tracked.end(*LOST)
        tracked.wait()
