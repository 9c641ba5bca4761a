"""What the pairs of two arms show, gathered into one record that the rules of the verdict read."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.faults import digest_fault, precision_fault
from analysis.intervals import Interval, no_interval, t_interval, two_way_interval
from analysis.pairs import FAILURES, Examples, Pair, Run, ended


@dataclass(frozen=True)
class Question:
    """What a verdict is asked about.

    Args:
        baseline: precision that the arm is measured against.
        precision: the arm's precision.
        metric: name of the metric.
        mode: ``max`` where more of the metric is better, ``min`` where less is.
        target_speedup: speed-up that must be reached, a ratio above 0.
        margin: loss of metric that is acceptable, at least 0.
        same_configuration: whether both arms ran one configuration; else the best one of each.
        target: the metric's value that time is measured to; ``None`` for what the baseline ends with, less the margin.
    """

    baseline: str
    precision: str
    metric: str
    mode: str
    target_speedup: float
    margin: float
    same_configuration: bool = True
    target: float | None = None


@dataclass(frozen=True)
class Evidence:
    """All that the rules ask; built by `gather`.

    Args:
        question: what is asked.
        num_ended: seeds with which both arms ran to an end of their own: completed, diverged or out of memory.
        absent: the ends of runs for want of which a seed has no pair, such as ``bf16-mixed: 2 errored``; empty if none.
        precision_fault: what is wrong with the effective precisions, as a clause; empty if nothing.
        digest_fault: likewise with the initial weights and the order of the data within pairs.
        num_timed: timing pairs measured.
        num_contended: those of them that shared their device; they are left out of every figure.
        baseline_failures: ends of the baseline's failed runs.
        arm_failures: ends of the arm's failed runs where the baseline's completed.
        num_compared: runs of the arm that ended of their own where the baseline's completed.
        num_unscored: pairs of completed runs in which a metric is missing or not a number.
        log_speedup: interval of the logarithm of the speed-up over timing pairs.
        delta: interval of the metric's difference, oriented so that more is better.
        over_examples: whether ``delta`` counts the validation examples as a sample too.
        log_aa: interval of the logarithm of the time ratio of the baseline and its copy.
        log_memory_ratio: mean logarithm of the baseline's peak memory over the arm's, NaN if unknown.
        log_speedup_over_default: mean logarithm of the speed-up over the baseline by PyTorch's default kernels, NaN if
            that was not timed.
        contention: what the first contended pair shared its device with, in words; empty if unknown.
    """

    question: Question
    num_ended: int
    absent: str
    precision_fault: str
    digest_fault: str
    num_timed: int
    num_contended: int
    baseline_failures: tuple[str, ...]
    arm_failures: tuple[str, ...]
    num_compared: int
    num_unscored: int
    log_speedup: Interval
    delta: Interval
    over_examples: bool
    log_aa: Interval
    log_memory_ratio: float
    log_speedup_over_default: float = math.nan
    contention: str = ""

    @property
    def num_pairs(self) -> int:
        """Pairs that the verdict rests on: the fewer of metric and timing."""
        return min(self.log_speedup.num, self.delta.num)


def gather(question: Question, pairs: Sequence[Pair], examples: Examples) -> Evidence:
    """The evidence of pairs.

    Args:
        question: what is asked.
        pairs: by seed, from `analysis.pairs.pairs_of`.
        examples: the metric per validation example of a trial.
    """
    runs = [(pair.arm.run, pair.baseline.run) for pair in pairs]
    both = [(arm, base) for arm, base in runs if arm is not None and base is not None]
    finished = [(arm, base) for arm, base in both if ended(arm) and ended(base)]
    compared = [(arm, base) for arm, base in finished if base.status == "completed"]
    completed = [(arm, base) for arm, base in compared if arm.status == "completed"]
    timed = [pair for pair in pairs if math.isfinite(pair.log_speedup)]
    sound = [pair for pair in timed if not pair.contended]
    delta, over_examples = _delta(question, _scored(completed), examples)
    return Evidence(
        question=question,
        num_ended=len(finished),
        absent=_absent(question, runs),
        precision_fault=precision_fault(question.precision, question.baseline, pairs),
        digest_fault=digest_fault(question.precision, question.baseline, pairs) if question.same_configuration else "",
        num_timed=len(timed),
        num_contended=len(timed) - len(sound),
        baseline_failures=tuple(base.status for _, base in runs if base is not None and base.status in FAILURES),
        arm_failures=tuple(arm.status for arm, _ in compared if arm.status in FAILURES),
        num_compared=len(compared),
        num_unscored=len(completed) - len(_scored(completed)),
        log_speedup=t_interval([pair.log_speedup for pair in sound]),
        delta=delta,
        over_examples=over_examples,
        log_aa=_log_aa(sound),
        log_memory_ratio=_mean([pair.log_memory_ratio for pair in sound]),
        log_speedup_over_default=_mean([pair.log_speedup_over_default for pair in sound]),
        contention=next((pair.contention for pair in timed if pair.contended and pair.contention), ""),
    )


def _scored(pairs: Sequence[tuple[Run, Run]]) -> list[tuple[Run, Run]]:
    return [(arm, base) for arm, base in pairs if math.isfinite(arm.metric) and math.isfinite(base.metric)]


def _absent(question: Question, runs: Sequence[tuple[Run | None, Run | None]]) -> str:
    """Runs that are not there, or that ended for reasons that say nothing about the precision."""
    parts = []
    for name, side in ((question.precision, [arm for arm, _ in runs]), (question.baseline, [base for _, base in runs])):
        ends = Counter("not run" if run is None else run.status for run in side if run is None or not ended(run))
        if ends:
            parts.append(f"{name}: " + ", ".join(f"{num} {_words(end)}" for end, num in ends.items()))
    return "; ".join(parts)


def _words(status: str) -> str:
    return status.replace("_", " ")


def _log_aa(pairs: Sequence[Pair]) -> Interval:
    values = {id(block): block.aa for pair in pairs for block in pair.blocks}.values()
    return t_interval([value for value in values if math.isfinite(value)])


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _delta(question: Question, pairs: Sequence[tuple[Run, Run]], examples: Examples) -> tuple[Interval, bool]:
    """The metric's difference: over seeds and examples of the pairs that have the arrays; without two, over seeds.

    Pairs without arrays are left out rather than counted without their examples' spread, which would flatter.
    """
    sign = 1.0 if question.mode == "max" else -1.0
    arrays = [(_per_example(arm, examples), _per_example(base, examples)) for arm, base in pairs]
    known = [(arm, base) for arm, base in arrays if arm is not None and base is not None]
    if len(known) >= min(2, len(pairs)) and len({array.size for both in known for array in both}) == 1:
        both = np.array(known)
        return two_way_interval(sign * (both[:, 0] - both[:, 1]), unit=float(np.abs(both).max())), True
    interval = t_interval([sign * (arm.metric - base.metric) for arm, base in pairs])
    # The very same difference every time: the spread over seeds is unknown, and 0 would flatter.
    return (no_interval(interval.num, interval.value) if interval.sd == 0 else interval), False


def _per_example(run: Run, examples: Examples) -> "NDArray[np.float64] | None":
    """A run's metric per example, unless their mean is not the metric (one weighted by tokens, say)."""
    array = examples(run.trial_id)
    if array is None or array.ndim != 1 or not math.isclose(array.mean(), run.metric, rel_tol=1e-4, abs_tol=1e-6):
        return None
    return array
