"""How long the steps of somebody else's loop take, of which some are watched, and so last longer."""

import math


class StepTimes:
    """Seconds of steps, an interval at a time."""

    def __init__(self) -> None:
        self._plain: list[float] = []
        self._watched: list[float] = []
        self._mean_s: float | None = None

    def add(self, seconds: float, is_watched: bool) -> None:
        """Takes a step's."""
        (self._watched if is_watched else self._plain).append(seconds)

    def take(self, num_steps: int) -> float:
        """Seconds of so many steps, those since this was called last.

        The watched ones are taken to last as long as the others; without others, as long as those of the intervals
        before; without any, as long as they did.
        """
        if self._plain:
            self._mean_s = math.fsum(self._plain) / len(self._plain)
        mean_s = self._mean_s
        if mean_s is None:
            mean_s = math.fsum(self._watched) / len(self._watched) if self._watched else math.nan
        self._plain, self._watched = [], []
        return num_steps * mean_s
