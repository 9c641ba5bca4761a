"""What the evidence leaves open, and how many pairs would close it."""

import math
from dataclasses import dataclass

from analysis import words
from analysis.evidence import Evidence
from analysis.intervals import Interval
from analysis.planning import MOST_PAIRS, pairs_for_width, pairs_needed

AA_WIDTH = 0.10
"""The interval of the baseline against its copy may be this wide (upper over lower bound, minus 1) for a ``PASS``."""

ROUNDING = 1e-12
"""Figures closer than this are equal, so that a bound on a threshold does not depend on how it was rounded."""


@dataclass(frozen=True)
class OpenQuestion:
    """A condition of ``PASS`` that is not shown.

    Args:
        clause: what is open, in words.
        num_pairs: pairs, those at hand included, that would close it; ``None`` if that is unknown or beyond reason.
        advice: what to do instead where ``num_pairs`` is ``None``.
        losing: whether the estimate itself lies on the wrong side, so that closing it would make the verdict ``FAIL``.
    """

    clause: str
    num_pairs: int | None
    advice: str
    losing: bool = False


def open_questions(e: Evidence) -> list[OpenQuestion]:
    """Every condition of ``PASS`` that the evidence does not show; empty for a ``PASS``."""
    return [question for question in (_speed(e), _metric(e), _unscored(e), _aa(e)) if question is not None]


def num_pairs_needed(e: Evidence) -> int | None:
    """How many pairs would decide an ``UNDERPOWERED`` verdict, ``None`` if that is unknown or beyond reason.

    One condition that fails decides, all that hold must be shown: so the fewest of the failing ones, else the most.
    """
    questions = open_questions(e)
    losing = [question.num_pairs for question in questions if question.losing]
    if losing:
        return min((num for num in losing if num is not None), default=None)
    nums = [question.num_pairs for question in questions]
    known = [num for num in nums if num is not None]
    return max(known) if known and len(known) == len(nums) else None


def undecided(e: Evidence) -> str:
    """Why neither ``FAIL`` nor ``PASS`` is shown, and what would decide it, as a clause."""
    questions = open_questions(e)
    num = num_pairs_needed(e)
    if num is not None:
        remedy = [f"about {num} pairs would decide it"]
    else:
        remedy = list(dict.fromkeys(question.advice for question in questions if question.num_pairs is None))
    return f"{words.figures(e)}: {'; '.join([question.clause for question in questions] + remedy)}"


def _speed(e: Evidence) -> OpenQuestion | None:
    target = math.log(e.question.target_speedup)
    if e.log_speedup.low >= target - ROUNDING:
        return None
    clause = f"the target {e.question.target_speedup:g}x lies within the speed-up's interval"
    return _open(e.log_speedup, target, "the target", clause, "the speed-up")


def _metric(e: Evidence) -> OpenQuestion | None:
    threshold, name = -e.question.margin, e.question.metric
    if e.delta.low > threshold + ROUNDING:
        return None
    return _open(e.delta, threshold, "the margin", f"the margin {threshold:g} lies within {name}'s interval", name)


def _open(interval: Interval, threshold: float, limit: str, clause: str, name: str) -> OpenQuestion:
    if math.isnan(interval.low):
        one = f"one pair gives no interval of {name}" if interval.num == 1 else f"{name} has no interval"
        return OpenQuestion(one, None, "run at least 2 pairs, better 6")
    losing = interval.value < threshold
    return OpenQuestion(clause, pairs_needed(interval, threshold), _advice(interval, threshold, limit), losing)


def _advice(interval: Interval, threshold: float, limit: str) -> str:
    if interval.fixed_variance > interval.sd**2 / MOST_PAIRS:
        return f"the truth lies too close to {limit} for this many validation examples, whatever the number of pairs"
    return f"the truth lies too close to {limit} for {MOST_PAIRS} pairs to decide"


def _unscored(e: Evidence) -> OpenQuestion | None:
    if not e.num_unscored:
        return None
    clause = f"{e.num_unscored} completed pairs have no {e.question.metric} that is a number"
    return OpenQuestion(clause.replace("1 completed pairs have", "1 completed pair has"), None, "run them again")


def _aa(e: Evidence) -> OpenQuestion | None:
    if e.log_aa.high - e.log_aa.low <= math.log(1 + AA_WIDTH):
        return None
    if math.isnan(e.log_aa.low):
        return OpenQuestion(
            "the baseline was not timed against a copy of itself in two pairs or more", None, _TIME_AGAIN
        )
    clause = f"the timing is noisy, the baseline against a copy of itself came out {words.aa(e)}"
    return OpenQuestion(clause, pairs_for_width(e.log_aa, math.log(1 + AA_WIDTH)), "time on a quieter machine")


_TIME_AGAIN = "time at least 2 pairs, better 6"
