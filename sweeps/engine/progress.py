"""Live progress: the stage, trials by state, the best so far of each precision, the time left."""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from analysis.schema import Kind


def plain_every_s(stage_s: float) -> float:
    """Seconds between lines where there is no terminal to redraw: a log of hours is not all progress.

    Args:
        stage_s: how long the stage has taken so far.
    """
    return min(max(5.0, stage_s / 50), 60.0)


class Progress:
    """Shows a sweep as it runs: a block that is redrawn on a terminal, lines elsewhere.

    What cannot be shown, as in a log whose disk is full or on a terminal that is gone, costs the sweep nothing.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._tally = Tally("", 0)
        self._shown_at = -math.inf
        self._last_line = ""
        self._metric, self._mode = "", "max"

    def say(self, line: str) -> None:
        """Prints a line that stays."""
        with contextlib.suppress(OSError):
            try:
                self._console.print(Text(line), soft_wrap=True)
            except SystemExit:  # rich's, without a word: who read the output has gone, as with a terminal that closes
                raise KeyboardInterrupt from None

    def ranks_by(self, metric: str, mode: Literal["max", "min"]) -> None:
        """Says which metric is the best so far of."""
        self._metric, self._mode = metric, mode

    def stage(self, name: str, total: int, what: str) -> None:
        """Begins a stage of ``total`` steps; ``what`` says in words what they are."""
        self._finish_stage()
        self._tally = Tally(name, total, self._metric, self._mode)
        self.say(f"{name:<8}{what}")
        self._shown_at = time.monotonic()
        if self._console.is_terminal:
            self._live = Live(self._tally.block(), console=self._console, refresh_per_second=4, transient=True)
            with contextlib.suppress(OSError):
                self._live.start()

    def saw(self, kind: Kind, row: Mapping[str, Any]) -> None:
        """Takes in a row as it goes into the journal."""
        self._tally.saw(kind, row)
        if self._live is not None:
            self._live.update(self._tally.block())
        elif time.monotonic() - self._shown_at >= plain_every_s(self._tally.since_s):
            self._say_tally()

    def _finish_stage(self) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._live.stop()
        self._tally.is_over = True
        if self._tally.num_done and self._tally.line() != self._last_line:
            self._say_tally()

    def _say_tally(self) -> None:
        self._shown_at = time.monotonic()
        self._last_line = self._tally.line()
        self.say(self._last_line)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._finish_stage()


class Tally:
    """What a stage has come to, counted from its rows.

    Args:
        name: the stage.
        total: trials and timings that it consists of.
        metric, mode: what the best so far is the best of.

    ``is_over`` says whether the stage has ended, be it before all of it was done.
    """

    def __init__(self, name: str, total: int, metric: str = "", mode: str = "max") -> None:
        self.name, self.total, self.is_over = name, total, False
        self._metric, self._sign = metric, 1 if mode == "max" else -1
        self._started = time.monotonic()
        self._states: dict[object, str] = {}
        self._counts: Counter[str] = Counter()
        self._precisions: dict[str, str] = {}
        self._best: dict[str, float] = {}

    @property
    def since_s(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._started

    @property
    def num_done(self) -> int:
        """Trials and timings that have ended."""
        return len(self._states) - self._counts["running"]

    def saw(self, kind: Kind, row: Mapping[str, Any]) -> None:
        """Counts a row."""
        if kind == "timing":
            self._enter((row["block_id"], row.get("device")), row["status"])
        elif kind == "report":
            self._fold(self._precisions.get(row["trial_id"], ""), row.get(self._metric))
        elif "status" in row:
            self._enter(row["trial_id"], row["status"])
            self._precisions.setdefault(row["trial_id"], row.get("precision", ""))

    def _enter(self, key: object, state: str) -> None:
        if key in self._states:
            self._counts[self._states[key]] -= 1
        self._states[key] = state
        self._counts[state] += 1

    def _fold(self, precision: str, value: float | None) -> None:
        if precision and value is not None and math.isfinite(value):
            best = self._best.get(precision, value)
            self._best[precision] = self._sign * max(self._sign * value, self._sign * best)

    def line(self) -> str:
        """One line: done of all, by state, the best so far, the time left."""
        parts = [f"{self.name:<8}{self.num_done}/{self.total}", self._by_state(), self._best_so_far(), self._left()]
        return " | ".join(part for part in parts if part)

    def block(self) -> Group:
        """The same with a bar, for a terminal."""
        bar = Table.grid(padding=(0, 1, 0, 0))
        done = f"{self.num_done}/{self.total}"
        bar.add_row(f"{self.name:<7}", ProgressBar(self.total, self.num_done, width=40), done, self._left())
        return Group(bar, *(Text(f"        {part}") for part in (self._by_state(), self._best_so_far()) if part))

    def _by_state(self) -> str:
        counts = sorted((+self._counts).items())
        return ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in counts)

    def _best_so_far(self) -> str:
        shown = ", ".join(f"{precision} {value:.4g}" for precision, value in sorted(self._best.items()))
        return f"best {self._metric}: {shown}" if shown else ""

    def _left(self) -> str:
        if self.is_over or not self.num_done or self.num_done >= self.total:
            return ""
        seconds = self.since_s / self.num_done * (self.total - self.num_done)
        return f"about {seconds:.0f} s left" if seconds < 100 else f"about {seconds / 60:.0f} min left"
