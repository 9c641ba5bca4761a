"""Sweeps drawn by chance: raw step times and metrics per example, with the noise of machines and tasks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from analysis.pairs import Block, Observed, Pair, Run, Side, TimedArm

Array = NDArray[np.float64]

ARMS = ("fp32", "bf16-mixed", "copy")
NUM_WINDOWS = 8
"""Windows of an arm in a timing process."""

NUM_EXAMPLES = 360
"""As many as the digits task validates on."""

ACCURACY = 0.96


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
