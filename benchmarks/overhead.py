"""What a trial and a report cost beside the training: trials that do nothing, by our engine and by Ray Tune.

    python -m benchmarks.overhead [--sizes 100,1000,10000] [--logged 100,1000] [--reported 100,1000] [--repeats 3]

Whole processes, timed from outside, one trial per CPU at once, actors reused by all. A run of two trials is what
starting and stopping costs; it is subtracted from the others. What a trial costs is told by trials of one report, what
a report costs by trials of ten. A report of ours holds what a real one does, one of Tune's a single number. Runs of up
to 100 trials are repeated. Tune with its loggers takes long, and so do ten reports of many trials: ``--logged`` and
``--reported`` say for how many trials to run those. Of our longer runs it also prints what a trial cost in each tenth.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from ray import tune

from benchmarks.timing import in_turns, show, wall_seconds
from trainables.adapters.ray_tune import TuneTrial

OURS, TUNE, LOGGED = "ampsweep", "Ray Tune without loggers", "Ray Tune"
NUM_REPORTS = 10
TENTHS = "ms a trial in each tenth of the run: "

Medians = dict[tuple[str, int, int], float]
"""Seconds by contestant, trials and reports of a trial."""


def main() -> None:
    """Runs every contestant at every size and prints a table, or is one contestant's process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100,1000,10000", help="trials of a run")
    parser.add_argument("--logged", default="100,1000", help="those of them that Tune runs with its loggers, too")
    parser.add_argument("--reported", default="100,1000", help="those of them that are run with ten reports, too")
    parser.add_argument("--repeats", type=int, default=3, help="of runs of up to 100 trials; longer ones run once")
    parser.add_argument("--run", nargs=3, metavar=("CONTESTANT", "TRIALS", "REPORTS"), help="be one of the processes")
    arguments = parser.parse_args()
    if arguments.run:
        name, num_trials, num_reports = arguments.run
        with tempfile.TemporaryDirectory() as folder:
            if name == OURS:
                run = run_ours(int(num_trials), int(num_reports), folder)
                if int(num_trials) >= 1000:
                    print(TENTHS + ", ".join(f"{each:.1f}" for each in ms_by_tenths(run)))
            else:
                run_tune(int(num_trials), int(num_reports), folder)
        return
    sizes, logged, reported = (
        [int(size) for size in text.split(",") if size]
        for text in (arguments.sizes, arguments.logged, arguments.reported)
    )
    runs = [(name, 2, 1) for name in (OURS, TUNE, LOGGED)]
    for size in sizes:
        for num_reports in (1, NUM_REPORTS) if size in reported else (1,):
            runs += [(name, size, num_reports) for name in (OURS, TUNE, LOGGED) if name != LOGGED or size in logged]
    tell(measure(runs, arguments.repeats), sizes)


def measure(runs: Sequence[tuple[str, int, int]], num_repeats: int) -> Medians:
    """Median seconds of whole processes, in turns."""
    seconds: dict[tuple[str, int, int], list[float]] = {run: [] for run in runs}
    short, long = [run for run in runs if run[1] <= 100], [run for run in runs if run[1] > 100]
    for name, num_trials, num_reports in [*in_turns(short, num_repeats), *long]:
        words = ["-m", "benchmarks.overhead", "--run", name, str(num_trials), str(num_reports)]
        wall, printed = wall_seconds(words, TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="0" if name == LOGGED else "1")
        seconds[name, num_trials, num_reports].append(wall)
        print(f"{num_trials} trials of {num_reports} reports: {name} {wall:.1f} s", flush=True)
        print("".join(f"  {line}\n" for line in printed.splitlines() if line.startswith(TENTHS)), end="", flush=True)
    return {run: statistics.median(times) for run, times in seconds.items()}


def tell(medians: Medians, sizes: Sequence[int]) -> None:
    """Prints milliseconds per trial and per report."""
    each: dict[tuple[str, str], float] = {}
    for (name, n, num_reports), seconds in medians.items():
        if n == 2:
            each[name, "2 trials, s"] = seconds
        elif num_reports == 1:
            each[name, f"{n} trials: ms each"] = 1e3 * (seconds - medians[name, 2, 1]) / (n - 2)
        else:
            more = n * (num_reports - 1)
            each[name, f"{n} trials: ms a report"] = 1e3 * (seconds - medians[name, n, 1]) / more
    columns = list(dict.fromkeys(column for _, column in each))
    rows = {name: [cell(each, name, column) for column in columns] for name in (OURS, TUNE, LOGGED)}
    show("in brackets: ampsweep's share of it", columns, rows)


def cell(each: dict[tuple[str, str], float], name: str, column: str) -> str:
    """A figure, and how much of it ours is."""
    if (name, column) not in each:
        return "-"
    return f"{each[name, column]:.2f} ({each[OURS, column] / each[name, column]:.2f})"


class Canned(TuneTrial):
    """A trial of ours without its training: reports of the same shape, made without torch."""

    def setup(self, config: dict[str, Any]) -> None:
        """Takes the place of building a model."""
        if config:
            self._reports = canned(config["spec"]["trial_id"], config["spec"]["budget"]["max_epochs"])


def canned(trial_id: str, num_reports: int) -> Iterator[Any]:
    """A trial's reports."""
    from trainables.report import TrialReport

    for epoch in range(1, num_reports + 1):
        metrics = {"val_accuracy": 0.9, "val_loss": 0.1}
        report = TrialReport(trial_id, epoch=epoch, step=epoch, train_loss=0.1, metrics=metrics)
        report.status = "running" if epoch < num_reports else "completed"
        report.train_s, report.wall_s, report.step_ms, report.samples_per_s = 1.0 * epoch, 1.1 * epoch, 1.0, 64e3
        report.highest = report.lowest = metrics
        yield report


def run_ours(
    num_trials: int, num_reports: int, folder: str, trainable: type[TuneTrial] = Canned, **constants: Any
) -> Path:
    """The search as our engine runs it, with plan, journal and progress; nothing is trained.

    Args:
        num_trials, num_reports: of the search, and of each trial.
        folder: for its results.
        trainable: what takes the place of training.
        constants: hyperparameters for it.

    Returns:
        the run's folder.
    """
    from rich.console import Console

    from sweeps import Sweep, loguniform
    from sweeps.engine.cluster import connected
    from sweeps.engine.endings import Endings
    from sweeps.engine.journal import Journal, write_declaration
    from sweeps.engine.progress import Progress
    from sweeps.engine.recorder import Recorder
    from sweeps.engine.tune import run_search
    from sweeps.engine.workers import Workers
    from sweeps.search.searchers import make_search
    from trainables.loading import find_task
    from trainables.spec import Checkpoints

    sweep = Sweep(
        name="nothing",
        task="trainables.tasks.digits:build",
        space={"learning_rate": loguniform(1e-4, 1e-2), **constants},
        precisions=("fp32", "bf16-mixed"),
        num_trials=num_trials,
        max_epochs=num_reports,
        scheduler="fifo",
        stage="search",
        storage=folder,
    )
    checkpoints = Checkpoints(str(Path(folder) / "checkpoints"), 60.0, "val_accuracy", "max")
    with Journal(Path(folder) / "run") as journal, Progress(Console()) as progress, connected(sweep) as resources:
        write_declaration(
            journal.folder, {**sweep.to_json(), "run_name": "run", "metric": "val_accuracy", "mode": "max"}
        )
        search = make_search(sweep, sweep.precisions, checkpoints, {}, resources.slots)
        progress.stage("search", search.total, "nothing")
        recorder = Recorder(journal, progress)
        endings = Endings(recorder, checkpoints)
        with Workers(trainable, resources) as workers:
            workers.start(resources.slots)
            run_search(sweep, find_task(sweep.task), search, (), resources, workers, {}, recorder, endings)
    return journal.folder


def ms_by_tenths(folder: Path) -> list[float]:
    """Milliseconds from trial to trial in each tenth of a run: whether they cost more the more there are."""
    from analysis.journal import read_journal

    ends = sorted(datetime.fromisoformat(row["ended_at"]) for row in read_journal(folder).trials.values())
    marks = [ends[index * (len(ends) - 1) // 10] for index in range(11)]
    return [1e4 * (after - before).total_seconds() / len(ends) for before, after in pairwise(marks)]


class Nothing(tune.Trainable):
    """A trial of Tune's that does nothing, as its documentation has one be reused."""

    def setup(self, config: dict[str, Any]) -> None:
        """Counts from the beginning."""
        self._done, self._num_reports = 0, config["num_reports"]

    def step(self) -> dict[str, Any]:
        """One report."""
        self._done += 1
        return {"val_accuracy": 0.9, "done": self._done == self._num_reports}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next trial."""
        self.setup(new_config)
        return True


def run_tune(num_trials: int, num_reports: int, folder: str) -> None:
    """The same by Ray Tune."""
    import ray

    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    results = tune.Tuner(
        tune.with_resources(Nothing, {"cpu": 1}),
        param_space={"learning_rate": tune.loguniform(1e-4, 1e-2), "num_reports": num_reports},
        tune_config=tune.TuneConfig(num_samples=num_trials, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=folder, verbose=0, checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)
        ),
    ).fit()
    assert results.num_terminated == num_trials


if __name__ == "__main__":
    main()
