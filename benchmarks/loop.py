"""A training step of our loop, of one written by hand, and of the loops that people use: ms each.

    python -m benchmarks.loop [--steps 440] [--rounds 15]

One process, one thread, in turns. Everyone trains an MLP 64-256-256-10 on scikit-learn's digits in FP32, with batches
of 64 in a shuffled order, fused AdamW and gradients clipped to norm 1. The loop written by hand and ours gather batches
from tensors in memory; the others are fed by a DataLoader, as their documentation has it. Ours and the one written by
hand must end with the same weights. Accelerate, Lightning and Transformers come with ``pip install -e ".[bench]"``.
"""

import argparse
import importlib.util
import time
import warnings
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.frameworks import (
    BATCH,
    DECAY,
    MAX_NORM,
    RATE,
    WARM_UP,
    Contestant,
    make,
    make_optimizer,
    timed,
    with_accelerate,
    with_lightning,
    with_loader,
    with_transformers,
)
from benchmarks.timing import in_turns, ratio, show, spread
from trainables.data import epoch_order
from trainables.hyperparameters import Hyperparameters
from trainables.ladder import LADDER
from trainables.loop import Loop
from trainables.precision import numerics
from trainables.task import Task

OURS, BY_HAND = "ampsweep", "by hand"


def main() -> None:
    """Times all contestants in turns and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=440, help="of a turn")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with numerics(LADDER["fp32"]):
        check_equal_work()
        contestants = make_contestants()
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for name in in_turns(list(contestants), arguments.rounds):
            times[name].append(1e3 * contestants[name](arguments.steps) / arguments.steps)
    rows = {name: [*spread(ms, 3), f"{ratio(ms, times[BY_HAND]):.3f}"] for name, ms in times.items()}
    show(f"{arguments.rounds} turns of {arguments.steps} steps", ["ms a step", "min", "max", "it / by hand"], rows)


def make_contestants() -> dict[str, Contestant]:
    """Those that are installed, by name; says which are not."""
    contestants: dict[str, Contestant] = {
        BY_HAND: by_hand(*make()),
        OURS: ours(make_loop(*make())),
        "DataLoader": with_loader(*make()),
    }
    others = {"accelerate": with_accelerate, "lightning": with_lightning, "transformers": with_transformers}
    for package, contestant in others.items():
        if importlib.util.find_spec(package) is None:
            print(f"{package} is left out: not installed")
        else:
            contestants[package] = contestant(*make())
    return contestants


def make_loop(model: nn.Module, data: TensorDataset) -> Loop:
    """Our loop."""
    hyper = Hyperparameters(learning_rate=RATE, weight_decay=DECAY, batch_size=BATCH, max_grad_norm=MAX_NORM)
    return Loop(Task(model, data, data), hyper, LADDER["fp32"], 0, torch.device("cpu"))


def check_equal_work() -> None:
    """Ends the benchmark unless ours and the one by hand have trained the same weights after three epochs."""
    (model, data), loop = make(), make_loop(*make())
    by_hand(model, data)(60)
    loop.train(WARM_UP + 60)
    for name, weights in model.state_dict().items():
        if not torch.equal(weights, loop.model.state_dict()[name]):
            raise SystemExit(f"not the same work: {name} differs after {WARM_UP + 60} steps")


def ours(loop: Loop) -> Contestant:
    """``Loop.train``, as a trial calls it once an epoch."""

    def run(num_steps: int) -> float:
        loop.train(WARM_UP)
        started = time.perf_counter()
        loop.train(num_steps)
        return time.perf_counter() - started

    return run


def by_hand(model: nn.Module, data: TensorDataset) -> Contestant:
    """The bare loop."""
    optimizer = make_optimizer(model)
    inputs, labels = data.tensors

    def batches() -> Iterator[torch.Tensor]:
        epoch = 0
        while True:
            order = epoch_order(len(labels), 0, epoch)
            for start in range(0, len(labels) - BATCH + 1, BATCH):
                yield order[start : start + BATCH]
            epoch += 1

    indices = batches()
    model.train()

    def step() -> None:
        batch = next(indices)
        loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return lambda num_steps: timed(step, num_steps)


if __name__ == "__main__":
    main()
