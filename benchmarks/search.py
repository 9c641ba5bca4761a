"""The same searches by ampsweep, by a script from Ray Tune's docs and by one from Optuna's.

    python -m benchmarks.search [--anchors ../shared/anchors] [--lists 2] [--runs 32] [--default-lists 1] [--seeds 2]

Whole processes, timed from outside. The anchors train the same network on the same data, up to the split.

Equal work: every list holds configurations of the digits task in fp32 and bf16-mixed, each trained for all epochs,
without pruning; Ray Tune with its defaults, which starts a process for every trial, runs only the first lists. With
pruning: everyone draws configurations from the same space, 32 trials of at most 12 epochs in fp32 and bf16-mixed, and
halves successively with grace period 1 and reduction factor 3.
"""

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from analysis import load
from benchmarks.timing import in_turns, ratio, show, spread, wall_seconds

OURS, REUSED, DEFAULTS, OPTUNA = (
    "ampsweep",
    "Ray Tune, actors reused",
    "Ray Tune, its defaults",
    "Optuna, a process a CPU",
)
PRUNED_TRIALS, PRUNED_EPOCHS = 32, 12


def main() -> None:
    """Times every contestant on every list and every seed, and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchors", type=Path, default=Path("../shared/anchors"))
    parser.add_argument("--lists", type=int, default=2, help="of configurations, for equal work; 0 leaves it out")
    parser.add_argument("--runs", type=int, default=32, help="configurations of a list")
    parser.add_argument("--epochs", type=int, default=6, help="of each")
    parser.add_argument("--default-lists", type=int, default=1, help="lists that Ray Tune with its defaults runs")
    parser.add_argument("--seeds", type=int, default=2, help="searches with pruning; 0 leaves them out")
    arguments = parser.parse_args()
    if not arguments.anchors.is_dir():
        print(f"left out: there are no scripts to compare with in {arguments.anchors}; name their folder by --anchors")
        return
    if arguments.lists:
        equal_work(arguments.anchors, arguments.lists, arguments.runs, arguments.epochs, arguments.default_lists)
    if arguments.seeds:
        with_pruning(arguments.anchors, arguments.seeds)


def equal_work(anchors: Path, num_lists: int, num_runs: int, epochs: int, default_lists: int) -> None:
    """The same runs by all."""
    seconds: dict[str, list[float]] = {}
    turns = in_turns((OURS, REUSED, OPTUNA), num_lists)
    for number in range(num_lists):
        names = [next(turns) for _ in range(3)] + ([DEFAULTS] if number < default_lists else [])
        with tempfile.TemporaryDirectory() as folder:
            points = write_points(Path(folder) / "points.jsonl", num_runs, number)
            work = ["--points", str(points), "--epochs", str(epochs)]
            commands = {
                OURS: [*ours(folder), "--points", str(points), "--max-epochs", str(epochs), "--scheduler", "fifo"],
                REUSED: [str(anchors / "plain_ray_tune.py"), "--reuse-actors", *work],
                DEFAULTS: [str(anchors / "plain_ray_tune.py"), *work],
                OPTUNA: [str(anchors / "plain_optuna.py"), "--trials", str(num_runs), *work],
            }
            for name in names:
                seconds.setdefault(name, []).append(wall_seconds(commands[name])[0])
                print(f"list {number}: {name} {seconds[name][-1]:.1f} s", flush=True)
    rows = {name: [str(len(times)), *spread(times), share(seconds, name)] for name, times in seconds.items()}
    columns = ["lists", "median s", "min", "max", "ampsweep / it"]
    show(f"equal work: {num_runs} runs of {epochs} epochs", columns, rows)


def write_points(path: Path, num_runs: int, seed: int) -> Path:
    """A list of runs, half of them in each precision."""
    draw = random.Random(seed)
    with path.open("w") as lines:
        for index in range(num_runs):
            point = {
                "learning_rate": 10 ** draw.uniform(-4, -1.5),
                "weight_decay": 10 ** draw.uniform(-5, -1),
                "width": draw.choice([16, 32, 64]),
                "precision": ("fp32", "bf16-mixed")[index % 2],
                "seed": draw.randrange(100),
            }
            lines.write(json.dumps(point) + "\n")
    return path


def ours(storage: str) -> list[str]:
    """Our sweep up to the search, in the precisions that the anchors have too."""
    words = ["-m", "sweeps.digits", "--stage", "search", "--precisions", "fp32,bf16-mixed"]
    return [*words, "--storage", storage, "--run-name", "ours"]


def share(seconds: dict[str, list[float]], name: str) -> str:
    """Our time over a contestant's, on the lists that both ran."""
    return f"{ratio(seconds[OURS][: len(seconds[name])], seconds[name]):.2f}"


def with_pruning(anchors: Path, num_seeds: int) -> None:
    """Searches of the same space and size."""
    seconds: dict[str, list[float]] = {}
    found: dict[str, list[tuple[float, float]]] = {}
    turns = in_turns((OURS, REUSED, OPTUNA), num_seeds)
    for seed in range(num_seeds):
        for name in [next(turns) for _ in range(3)]:
            wall, epochs, accuracy = pruned_search(name, anchors, seed)
            seconds.setdefault(name, []).append(wall)
            found.setdefault(name, []).append((epochs, accuracy))
            print(f"seed {seed}: {name} {wall:.1f} s, {epochs:.0f} epochs, {accuracy:.3f}", flush=True)
    rows = {name: [*spread(times), share(seconds, name), *outcome(found[name])] for name, times in seconds.items()}
    columns = ["median s", "min", "max", "ampsweep / it", "epochs trained", "best accuracy", "lowest of the best"]
    show(f"with pruning: {PRUNED_TRIALS} trials of {PRUNED_EPOCHS} epochs at most, {num_seeds} seeds", columns, rows)


def pruned_search(name: str, anchors: Path, seed: int) -> tuple[float, float, float]:
    """Seconds of a search, epochs that it trained, and the best accuracy that it saw."""
    if name == OURS:
        size = ["--num-trials", str(PRUNED_TRIALS), "--max-epochs", str(PRUNED_EPOCHS), "--scheduler", "asha"]
        with tempfile.TemporaryDirectory() as folder:
            wall, _ = wall_seconds([*ours(folder), *size, "--seed", str(seed)])
            trials = load(Path(folder) / "ours").trials.query("stage == 'search'")
        return wall, float(trials["epochs"].sum()), float(trials["best_val_accuracy"].max())
    words = [str(anchors / "plain_ray_tune.py"), "--reuse-actors"]
    words = [str(anchors / "plain_optuna.py")] if name == OPTUNA else words
    words += ["--trials", str(PRUNED_TRIALS), "--epochs", str(PRUNED_EPOCHS), "--seed", str(seed)]
    wall, printed = wall_seconds(words)
    result = json.loads(printed.splitlines()[-1])
    return wall, result["epochs"], result["best_accuracy"]


def outcome(found: Sequence[tuple[float, float]]) -> list[str]:
    """Median epochs, and median and lowest of the best accuracies."""
    epochs, accuracies = zip(*found, strict=True)
    return [f"{statistics.median(epochs):.0f}", f"{statistics.median(accuracies):.4f}", f"{min(accuracies):.4f}"]


if __name__ == "__main__":
    main()
