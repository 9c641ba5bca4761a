"""What makes pairs incomparable: arms that were not what was asked for, or that differ in more than precision."""

from collections import Counter
from collections.abc import Sequence

from analysis.pairs import FAILURES, Observed, Pair, Side, ended


def precision_fault(precision: str, baseline: str, pairs: Sequence[Pair]) -> str:
    """Which of the two precisions was not seen to be what was asked for, as a clause; empty if neither.

    Args:
        precision: the arm's.
        baseline: the baseline's.
        pairs: their pairs.
    """
    for name, sides in ((precision, [pair.arm for pair in pairs]), (baseline, [pair.baseline for pair in pairs])):
        seen = [effective for side in sides for effective in _effective(side)]
        wrong = Counter(effective for effective in seen if effective != name)
        if wrong:
            ends = (
                f"{num} ran in {found}" if found else f"{num} could not be observed" for found, num in wrong.items()
            )
            return f"{name} was asked for, but of {len(seen)} runs and timings {' and '.join(ends)}"
    return ""


def _effective(side: Side) -> list[str | None]:
    """What a side was seen to run in; a run that failed may have ended before anything was seen."""
    seen: list[str | None] = []
    if side.run is not None:
        effective = side.run.observed.effective_precision
        if side.run.status in ("completed", "precision_mismatch") or (effective and side.run.status in FAILURES):
            seen.append(effective)
    if side.timed is not None:
        seen.append(side.timed.observed.effective_precision)
    return seen


def digest_fault(precision: str, baseline: str, pairs: Sequence[Pair]) -> str:
    """How the arms of pairs differ in more than precision, as a clause; empty if they do not.

    A digest that is missing is a fault too: that the arms are alike is observed, not assumed.

    Args:
        precision: the arm's.
        baseline: the baseline's.
        pairs: their pairs, of one configuration.
    """
    within = [both for pair in pairs for both in _observed(pair)]
    weights = [(arm.init_digest, base.init_digest) for arm, base in within]
    order = [(arm.data_digest, base.data_digest) for arm, base in within]
    compiled = [(arm.compiled, base.compiled) for arm, base in within]
    arms = f"{precision} and {baseline}"
    for num, fault in (
        (_num_different(weights), f"the initial weights of {arms} differ"),
        (_num_different(order), f"the order of the data differs between {arms}"),
        (_num_different(compiled), f"one of {arms} ran compiled and the other did not (set compile for both)"),
        (_num_missing(weights), f"the initial weights of {arms} were not recorded"),
        (_num_missing(order), f"the order of the data was not recorded for {arms}"),
    ):
        if num:
            return f"{fault} in {num} of {len(within)} pairs of runs or timings"
    return ""


Both = Sequence[tuple[str | None, str | None]] | Sequence[tuple[bool | None, bool | None]]
"""What was seen of the arm and of the baseline, by pair."""


def _num_different(seen: Both) -> int:
    return sum(arm is not None and base is not None and arm != base for arm, base in seen)


def _num_missing(seen: Both) -> int:
    return sum(arm is None or base is None for arm, base in seen)


def _observed(pair: Pair) -> list[tuple[Observed, Observed]]:
    """The pair's two runs and its two timed arms, where both are there to be compared."""
    found = []
    arm, base = pair.arm.run, pair.baseline.run
    if arm is not None and base is not None and ended(arm) and ended(base):
        completed = arm.status == base.status == "completed"
        # A run that failed may have ended before its weights and data were digested.
        if completed or None not in (arm.observed.init_digest, base.observed.init_digest):
            found.append((arm.observed, base.observed))
    if pair.arm.timed is not None and pair.baseline.timed is not None:
        found.append((pair.arm.timed.observed, pair.baseline.timed.observed))
    return found
