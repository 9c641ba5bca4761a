"""How often the intervals cover the truth and the verdicts are right: sweeps drawn by chance, judged by the real code.

Raw step times and metrics per example are drawn; from there on everything is `analysis`: pairs, evidence, rules.
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product

import numpy as np

from analysis.evidence import Evidence, Question, gather
from analysis.intervals import Interval, two_way_interval
from analysis.power import num_pairs_needed
from analysis.rules import judge
from benchmarks.draws import NOISES, Array, Noise, answers, losses, pairs_of, step_times

NEAR = 0.6
"""Standard deviations between pairs from which on the advised number of pairs is to decide."""

# The metric passes whatever it does, so that the speed-up alone decides.
QUESTION = Question("fp32", "bf16-mixed", "val_accuracy", "max", 1.0, 0.5)


def equal_arms(noise: Noise, num_pairs: int, num_sweeps: int, rng: np.random.Generator) -> Counter[str]:
    """Counts over sweeps of two arms that are alike in speed and metric."""
    found: Counter[str] = Counter()
    for size in _portions(num_sweeps):
        times, (right, _) = step_times(noise, size, num_pairs, 0.0, rng), answers(noise, size, num_pairs, 0.0, rng)
        for index in range(size):
            pairs, examples = pairs_of(times[index], right[:, index])
            evidence = gather(QUESTION, pairs, examples.get)
            found["speed-up"] += _covers(evidence.log_speedup, 0.0)
            found["accuracy"] += _covers(evidence.delta, 0.0)
            for target in (1.0, 1.5):
                asked = replace(evidence, question=replace(QUESTION, target_speedup=target))
                verdict, _ = judge(asked)
                found[f"{verdict} at {target}"] += 1
    return found


def metrics(noise: Noise, num_pairs: int, num_sweeps: int, rng: np.random.Generator) -> Counter[str]:
    """Counts over sweeps whose arms differ in accuracy, and in a loss."""
    found: Counter[str] = Counter()
    for size in _portions(num_sweeps):
        right, truth = answers(noise, size, num_pairs, 0.15, rng)
        for one in right[1] - right[0]:
            found["lower accuracy"] += _covers(two_way_interval(one, unit=1.0), truth)
        for one in losses(noise, size, num_pairs, rng):
            found["loss"] += _covers(two_way_interval(one, unit=1.0), 0.0)
    return found


def advised(noise: Noise, num_pairs: int, num_sweeps: int, rng: np.random.Generator) -> tuple[Counter[str], list[int]]:
    """Counts over sweeps whose speed-up is `NEAR` standard deviations from the target, and the numbers advised."""
    found: Counter[str] = Counter()
    numbers = []
    sd = pair_sd(noise, rng)
    for number in range(num_sweeps):
        right_one, log_speedup = (("PASS", NEAR * sd), ("FAIL", -NEAR * sd))[number % 2]
        times = step_times(noise, 1, num_pairs, log_speedup, rng)[0]
        evidence = _timed(times, rng)
        if judge(evidence)[0] != "UNDERPOWERED":
            continue
        found["open"] += 1
        num = num_pairs_needed(evidence)
        if num is not None:
            numbers.append(num)
            more = step_times(noise, 1, num - num_pairs, log_speedup, rng)[0]
            found["decided"] += judge(_timed(np.concatenate([times, more]), rng))[0] == right_one
    return found, numbers


def _timed(times: Array, rng: np.random.Generator) -> Evidence:
    """The evidence of step times, with a metric that leaves nothing open."""
    pairs, examples = pairs_of(times, 0.9 + 0.001 * rng.standard_normal((2, len(times), 2)))
    return gather(QUESTION, pairs, examples.get)


def pair_sd(noise: Noise, rng: np.random.Generator) -> float:
    """Standard deviation of the log speed-up between pairs, from 20,000 of them."""
    logs = np.log(step_times(noise, 1000, 20, 0.0, rng)).mean(axis=3)
    return float((logs[:, :, 0] - logs[:, :, 1]).std())


def _portions(num: int, most: int = 250) -> Iterator[int]:
    for start in range(0, num, most):
        yield min(most, num - start)


def _covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


COLUMNS = (
    ("speed-up", 0.93, 0.97),
    ("loss", 0.93, 0.97),
    ("accuracy", 0.93, 1.0),
    ("lower accuracy", 0.93, 1.0),
    ("PASS at 1.0", 0.0, 0.036),
    ("PASS at 1.5", 0.0, 0.0),
    ("INVALID at 1.0", 0.0, 0.01),
    ("decided", 0.8, 1.0),
)
"""Shares that a cell's row shows, and the least and most that each may be."""


def cell(name: str, num_pairs: int, num_sweeps: int) -> dict[str, float]:
    """The shares of one cell of the table.

    Args:
        name: of the noise.
        num_pairs: of a sweep.
        num_sweeps: drawn for each figure.

    Returns:
        the shares of `COLUMNS`, ``sd`` between pairs, and the quantiles ``median`` and ``most`` (90 %) of the advice.
    """
    noise = NOISES[name]
    rng = np.random.default_rng([num_pairs, list(NOISES).index(name)])
    found = equal_arms(noise, num_pairs, num_sweeps, rng) + metrics(noise, num_pairs, num_sweeps, rng)
    decided, numbers = advised(noise, num_pairs, num_sweeps, rng)
    shares = {column: found[column] / num_sweeps for column, _, _ in COLUMNS}
    shares["decided"] = decided["decided"] / max(decided["open"], 1)
    median, most = np.percentile(numbers, (50, 90)) if numbers else (math.nan, math.nan)
    return shares | {"sd": pair_sd(noise, rng), "median": float(median), "most": float(most)}


def outside(shares: Mapping[str, float], slack: float = 0.0) -> list[str]:
    """The columns of a cell that are not as they should be."""
    return [column for column, low, high in COLUMNS if not low - slack <= shares[column] <= high + slack]


def _row(name: str, num_pairs: int, shares: Mapping[str, float]) -> str:
    cells = [name, str(num_pairs), f"{100 * shares['sd']:.1f}", *(f"{100 * shares[c]:.1f}" for c, _, _ in COLUMNS)]
    return "| " + " | ".join([*cells, f"{shares['median']:.0f}", f"{shares['most']:.0f}"]) + " |"


def main(words: Sequence[str] | None = None) -> None:
    """Prints the table, and says what in it is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=20_000, help="sweeps for each figure (default %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="cells drawn beside each other (default %(default)s)")
    given = parser.parse_args(words)
    cells = list(product(NOISES, (6, 10, 20)))
    heads = ["noise", "pairs", "pair SD %", *(column for column, _, _ in COLUMNS), "advised, median", "90 %"]
    print("| " + " | ".join(heads) + " |\n" + "| --- " * len(heads) + "|", flush=True)
    wrong = []
    with ProcessPoolExecutor(given.processes) as pool:
        rows = pool.map(cell, *zip(*((*at, given.sweeps) for at in cells), strict=True))
        for (name, num_pairs), shares in zip(cells, rows, strict=True):
            print(_row(name, num_pairs, shares), flush=True)
            wrong += [f"{name}, {num_pairs} pairs: {column}" for column in outside(shares)]
    if wrong:
        raise SystemExit("not as it should be: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
