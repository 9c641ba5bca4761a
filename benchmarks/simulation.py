"""How often the intervals cover the truth and the verdicts are right: sweeps drawn by chance, judged by the real code.

Raw step times and metrics per example are drawn; from there on everything is `analysis`: pairs, evidence, rules.
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from analysis.evidence import Evidence, Question, gather
from analysis.intervals import Interval, two_way_interval
from analysis.pairs import Block, Observed, Pair, Run, Side, TimedArm
from analysis.power import num_pairs_needed
from analysis.rules import judge

Array = NDArray[np.float64]

ARMS = ("fp32", "bf16-mixed", "copy")
NUM_WINDOWS = 8
"""Windows of an arm in a timing process."""

NUM_EXAMPLES = 360
"""As many as the digits task validates on."""

ACCURACY = 0.96

NEAR = 0.6
"""Standard deviations between pairs from which on the advised number of pairs is to decide."""

# The metric passes whatever it does, so that the speed-up alone decides.
QUESTION = Question("fp32", "bf16-mixed", "val_accuracy", "max", 1.0, 0.5)


@dataclass(frozen=True)
class Noise:
    """What makes a machine's step times and a task's metric uncertain.

    Args:
        drift: standard deviation of the log step time's change from the first to the last window of a run, all arms.
        slow: how many times slower the machine is in a tenth of the windows, in spells of four on average, all arms.
        process: standard deviation of what an arm's log step time owes to the process that it ran in.
        window: standard deviation of the log step time of one window.
        seeds: standard deviation of an arm's ability that only one seed has, in those of the examples' difficulty.
        examples: the same of what an arm finds difficult in an example whatever the seed.
        both: the same of what is true of one arm, seed and example.
    """

    drift: float
    slow: float
    process: float
    window: float
    seeds: float
    examples: float
    both: float


NOISES = {
    "low": Noise(0.02, 1.1, 0.005, 0.01, 0.02, 0.05, 0.10),
    "medium": Noise(0.10, 1.3, 0.015, 0.03, 0.10, 0.10, 0.20),
    "high": Noise(0.30, 1.5, 0.030, 0.06, 0.30, 0.20, 0.50),
}


def step_times(noise: Noise, num_sweeps: int, num_pairs: int, log_speedup: float, rng: np.random.Generator) -> Array:
    """Window medians in ms.

    Args:
        noise: of the machine.
        num_sweeps: machines, each with a drift of its own.
        num_pairs: timing processes of a sweep, one after the other.
        log_speedup: of the second arm.
        rng: draws them.

    Returns:
        (num_sweeps, num_pairs, 3, NUM_WINDOWS): of the arms of `ARMS`, each in the order of its windows.
    """
    num = num_pairs * NUM_WINDOWS * 3
    walk = rng.standard_normal((num_sweeps, num)).cumsum(axis=1) / math.sqrt(num)
    spells = _spells(num_sweeps, num, rng)
    machine = (noise.drift * walk + math.log(noise.slow) * spells).reshape(num_sweeps, num_pairs, NUM_WINDOWS, 3)
    machine = machine + noise.window * rng.standard_normal(machine.shape)
    # The arms in their order and its reverse, by turns.
    machine[:, :, 1::2] = machine[:, :, 1::2, ::-1]
    process = noise.process * rng.standard_normal((num_sweeps, num_pairs, 3, 1))
    arm = -log_speedup * np.array([0.0, 1.0, 0.0])[:, None]
    times: Array = 20.0 * np.exp(machine.swapaxes(2, 3) + process + arm)
    return times


def _spells(num_sweeps: int, num: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which windows are slow: a tenth of them, in spells of four on average."""
    before = 30  # windows, in which a spell may have begun
    window = np.arange(before + num)
    starts = rng.random((num_sweeps, before + num)) < 0.026
    ends = np.where(starts, window + rng.geometric(0.25, starts.shape), 0)
    slow: NDArray[np.bool_] = np.maximum.accumulate(ends, axis=1)[:, before:] > window[before:]
    return slow


def answers(
    noise: Noise, num_sweeps: int, num_seeds: int, loss: float, rng: np.random.Generator
) -> tuple[Array, float]:
    """Right or wrong answers of two arms to the same examples.

    Args:
        noise: of the task.
        num_sweeps: validation sets.
        num_seeds: pairs of runs of a sweep; both arms of one share what its initial weights and data are good for.
        loss: of the second arm's ability.
        rng: draws them.

    Returns:
        (2, num_sweeps, num_seeds, NUM_EXAMPLES) of 0 and 1, baseline first, and the true difference of the accuracy.
    """
    shape = (num_sweeps, num_seeds, NUM_EXAMPLES)
    shared = rng.standard_normal((num_sweeps, 1, NUM_EXAMPLES))
    shared = shared + noise.seeds * rng.standard_normal((num_sweeps, num_seeds, 1))
    spread = math.sqrt(1 + 2 * noise.seeds**2 + noise.examples**2 + noise.both**2)
    level = spread * float(ndtri(ACCURACY))
    both = []
    for ability in (level, level - loss):
        own = noise.seeds * rng.standard_normal((num_sweeps, num_seeds, 1))
        own = own + noise.examples * rng.standard_normal((num_sweeps, 1, NUM_EXAMPLES))
        both.append(ability + shared + own + noise.both * rng.standard_normal(shape) > 0)
    return np.array(both, dtype=np.float64), float(ndtr((level - loss) / spread)) - ACCURACY


def losses(noise: Noise, num_sweeps: int, num_seeds: int, rng: np.random.Generator) -> Array:
    """Differences of a skewed loss per example, of mean 0: (num_sweeps, num_seeds, NUM_EXAMPLES)."""
    skewed = rng.exponential(size=(num_sweeps, 1, NUM_EXAMPLES)) - 1
    own = noise.both * rng.standard_normal((num_sweeps, num_seeds, NUM_EXAMPLES))
    # A seed's ability moves all its examples, so that it weighs as much as all of them together.
    return noise.seeds * rng.standard_normal((num_sweeps, num_seeds, 1)) / 5 + noise.examples * skewed + own


def pairs_of(times: Array, right: Array) -> tuple[list[Pair], Mapping[str, Array]]:
    """The pairs of one sweep, as the confirm stage records them.

    Args:
        times: (num_pairs, 3, NUM_WINDOWS), ms.
        right: (2, num_pairs, num_examples).

    Returns:
        the pairs, and trial_id -> metric per example.
    """
    pairs, examples = [], {}
    for seed, windows in enumerate(times.tolist()):
        base, arm, copy = (
            TimedArm(tuple(arm), math.nan, math.nan, Observed(name, "weights", "data"))
            for name, arm in zip(("fp32", "bf16-mixed", "fp32"), windows, strict=True)
        )
        block = Block(False, {"fp32": base, "bf16-mixed": arm}, {"fp32": copy})
        runs = []
        for name, of_arm in zip(ARMS, right, strict=False):
            trial_id = f"{name}-{seed}"
            examples[trial_id] = of_arm[seed]
            seen = Observed(name, "weights", "data")
            runs.append(Run(trial_id, "completed", "", float(of_arm[seed].mean()), seen))
        pairs.append(Pair(seed, Side(runs[1], arm, block), Side(runs[0], base, block)))
    return pairs, examples


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
