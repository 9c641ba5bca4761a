"""Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934), the stopping variant, without Ray."""

import math
from bisect import bisect_right, insort
from dataclasses import dataclass, field

from sweeps.search.checks import one_of, whole

MODES = ("max", "min")
"""Whether higher or lower values of the metric are better."""


@dataclass
class _Rung:
    """What was recorded at one rung of one stratum: all scores in ascending order, and who went on."""

    scores: list[float] = field(default_factory=list)
    went_on: dict[str, bool] = field(default_factory=dict)


class SuccessiveHalving:
    """Decides at each rung whether a trial goes on, by its rank among the trials of its stratum that got there before.

    A trial goes on where fewer than ``max(1, n // reduction_factor)`` of the ``n`` values recorded at the rung, its own
    among them, are strictly better. The first to arrive therefore goes on, and ties do. A value that is not finite is
    worse than all others and never goes on. There is one bracket.

    Args:
        max_t: time at which trials end by themselves, at least 1.
        grace_period: the first rung, at least 1: no trial stops before.
        reduction_factor: each rung lies that many times further than the one before, at least 2.
        mode: ``"max"`` or ``"min"``.

    Raises:
        SweepError: an argument is out of its range.
    """

    def __init__(self, max_t: int, grace_period: int = 1, reduction_factor: int = 3, mode: str = "max") -> None:
        whole("max_t", max_t, at_least=1, remedy="give the number of reports of a full trial")
        whole("grace_period", grace_period, at_least=1, remedy="give a number of reports")
        whole("reduction_factor", reduction_factor, at_least=2, remedy="2, 3 and 4 are usual")
        self.sign = 1.0 if one_of("mode", mode, MODES) == "max" else -1.0
        self.rungs = rungs(max_t, grace_period, reduction_factor)
        self.reduction_factor = reduction_factor
        self.num_stopped = 0
        self._strata: dict[str, list[_Rung]] = {}

    def report(self, stratum: str, trial_id: str, t: int, value: float) -> bool:
        """Whether the trial goes on.

        A trial is judged once at each rung, by its first report at or after it; reporting again gives the same answer,
        and a trial that was stopped stays so and is recorded at no later rung.

        Args:
            stratum: trials are ranked within it alone, e.g. a precision.
            trial_id: unique over all strata.
            t: time of the report, in the units of ``max_t``.
            value: the metric; NaN where unknown.
        """
        for rung in self._stratum(stratum)[: bisect_right(self.rungs, t)]:
            if trial_id not in rung.went_on:
                self._judge(rung, trial_id, value)
            if not rung.went_on[trial_id]:
                return False
        return True

    def num_recorded(self, stratum: str) -> list[int]:
        """How many trials of a stratum reached each rung."""
        return [len(rung.scores) for rung in self._stratum(stratum)]

    @property
    def strata(self) -> list[str]:
        """Every stratum that reported, in order of arrival."""
        return list(self._strata)

    def _stratum(self, name: str) -> list[_Rung]:
        return self._strata.setdefault(name, [_Rung() for _ in self.rungs])

    def _judge(self, rung: _Rung, trial_id: str, value: float) -> None:
        score = self.sign * value if math.isfinite(value) else -math.inf
        insort(rung.scores, score)
        num_recorded = len(rung.scores)
        num_better = num_recorded - bisect_right(rung.scores, score)
        room = max(1, num_recorded // self.reduction_factor)
        rung.went_on[trial_id] = math.isfinite(value) and num_better < room
        self.num_stopped += not rung.went_on[trial_id]


def rungs(max_t: int, grace_period: int, reduction_factor: int) -> list[int]:
    """The times at which trials are judged: ``grace_period * reduction_factor**k`` below ``max_t``, ascending.

    Args:
        max_t: time at which trials end by themselves; no rung lies there.
        grace_period: the first rung, at least 1.
        reduction_factor: at least 2.
    """
    times = []
    t = grace_period
    while t < max_t:
        times.append(t)
        t *= reduction_factor
    return times
