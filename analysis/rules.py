"""The rules of the verdict, in their order; a rule reads the evidence and gives its reason as a clause, or ``None``."""

import math
from collections.abc import Callable

from analysis import words
from analysis.evidence import Evidence
from analysis.power import ROUNDING, open_questions, undecided
from analysis.schema import Verdict

AA_RANGE = (0.97, 1.03)
"""The ratio of a baseline's times to its own copy's must be able to lie in here, or the timing is biased."""

Rule = Callable[[Evidence], str | None]


def judge(evidence: Evidence) -> tuple[Verdict, str]:
    """The verdict and its reason: the first rule that applies decides.

    Args:
        evidence: what the pairs show.

    Returns:
        the verdict, and why, in one sentence.
    """
    for verdict, rule in RULES:
        reason = rule(evidence)
        if reason is not None:
            return verdict, words.sentence(reason if verdict == "INVALID" else reason + words.notes(evidence))
    return "UNDERPOWERED", words.sentence(undecided(evidence) + words.notes(evidence))


# INVALID: nothing can be said.


def no_pair(e: Evidence) -> str | None:
    """No seed with which both arms ran to an end of their own."""
    if e.num_ended or e.precision_fault:
        return None
    return f"no pair: there is no seed with which both {words.arms(e)} ran to an end{words.absent(e)}"


def other_precision(e: Evidence) -> str | None:
    """An effective precision other than the one asked for, or one that was not observed."""
    return e.precision_fault or None


def unlike_arms(e: Evidence) -> str | None:
    """Initial weights or an order of data that differ within a pair, or that were not recorded."""
    return e.digest_fault or None


def contended_timing(e: Evidence) -> str | None:
    """Fewer than half of the timing pairs had their device for themselves."""
    if 2 * (e.num_timed - e.num_contended) >= e.num_timed:
        return None
    shared = f"{e.num_contended} of {e.num_timed} timing pairs shared their device with other work"
    return f"{shared}{f' ({e.contention})' if e.contention else ''}; time them on a free one"


def biased_timing(e: Evidence) -> str | None:
    """The ratio of the baseline and its own copy lies wholly outside the range around 1."""
    if not (e.log_aa.high < math.log(AA_RANGE[0]) or e.log_aa.low > math.log(AA_RANGE[1])):
        return None
    outside = f"wholly outside {AA_RANGE[0]} to {AA_RANGE[1]}"
    return f"the timing is biased: the baseline against a copy of itself came out {words.aa(e)}, {outside}"


def baseline_failed(e: Evidence) -> str | None:
    """A run of the baseline diverged or did not fit, so it is nothing to be measured against."""
    if not e.baseline_failures:
        return None
    return f"{e.question.baseline} itself {words.failed(e.baseline_failures)}, so it cannot be the baseline"


def unmeasured(e: Evidence) -> str | None:
    """No pair has a metric, or none a timing; where the arm failed, that needs neither."""
    if e.arm_failures:
        return None
    if not e.delta.num:
        return f"no pair: no two runs of {words.arms(e)} have a {e.question.metric} that is a number{words.absent(e)}"
    if not e.log_speedup.num:
        return f"no pair: no timing of {words.arms(e)} was completed, so the speed-up is unknown"
    return None


# FAIL: the precision does not do what was asked of it.


def arm_failed(e: Evidence) -> str | None:
    """Runs of the arm diverged or ran out of memory where the baseline's did not."""
    if not e.arm_failures:
        return None
    failed = words.failed(e.arm_failures, e.num_compared)
    return f"{e.question.precision} {failed} where {e.question.baseline} did not"


def too_slow(e: Evidence) -> str | None:
    """The whole interval of the speed-up lies below the target."""
    target = e.question.target_speedup
    if not e.log_speedup.high < math.log(target) - ROUNDING:
        return None
    return f"{words.speed(e)}: the whole interval lies below the target {target:g}x"


def too_much_lost(e: Evidence) -> str | None:
    """The whole interval of the metric's difference lies below minus the margin."""
    margin = e.question.margin
    if not e.delta.high < -margin - ROUNDING:
        return None
    return f"{words.metric(e)}: the whole interval lies below {-margin:g}, the loss that was declared acceptable"


# PASS: shown. A NaN is never shown.


def proven(e: Evidence) -> str | None:
    """Both lower bounds are clear, every completed pair has its metric, and the timing is sharp."""
    q = e.question
    if open_questions(e):
        return None
    return f"{words.figures(e)}: both clear of the target {q.target_speedup:g}x and the margin {q.margin:g}"


RULES: tuple[tuple[Verdict, Rule], ...] = (
    ("INVALID", no_pair),
    ("INVALID", other_precision),
    ("INVALID", unlike_arms),
    ("INVALID", contended_timing),
    ("INVALID", biased_timing),
    ("INVALID", baseline_failed),
    ("INVALID", unmeasured),
    ("FAIL", arm_failed),
    ("FAIL", too_slow),
    ("FAIL", too_much_lost),
    ("PASS", proven),
)
"""In this order; where none applies the verdict is ``UNDERPOWERED``."""
