"""How much of their time slots spend working: trials of one second of simulated work, by our engine and by Ray Tune.

    python -m benchmarks.orchestration [--slots 1,4,16] [--seconds 15] [--work-s 1] [--reports 1] [--repeats 3] [--cold]

Ray's own benchmark of this kind, "bookkeeping overhead": 10,000 trials of one second, one report each, on 16 CPUs take
715 s, where 625 s are ideal: 1.14 (https://docs.ray.io/en/latest/tune/tutorials/tune-scalability.html). Scaled here to
fit into 10 minutes: the same work and reports on as many slots, but as many trials as are ideally done in
``--seconds``. The work is ``time.sleep``, so slots are logical CPUs: many more of them than cores are kept busy.

Both contestants run on a Ray that is up, each in a process of its own, in turns: our search stage, with workers, plan,
journal and progress, and Tune with reused actors and without loggers. The first trial of every process does no work but
waits until there are as many processes as slots: with so few trials, starting them would hide all else. By the clock of
the trials themselves:

- "time / ideal": from when all processes are there to the end of the last trial's work, over trials / slots seconds;
- "working %": the share of the slots' time in which trials worked, its inverse;
- "gap ms": from the end of a trial's work to the start of the next in the same process, median and 90 % quantile;
- "start s": from the call of the search until all processes are there;
- "whole": from the call until it has returned, over the ideal time; so Ray counts, whose start more trials share.

``--cold`` lets the first trials work at once: time / ideal is then from the first trial's start.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ray import tune

from benchmarks.overhead import OURS, TUNE, canned, run_ours
from benchmarks.timing import in_turns, ratio, show, spread, wall_seconds
from trainables.adapters.ray_tune import TuneTrial

CLOCK = ("began", "ended", "process")
"""What every trial tells of its work: when it began and ended, in seconds of the epoch, and in which process."""

MOST_S = 300.0
"""For which processes wait for each other."""


def main(words: Sequence[str] | None = None) -> None:
    """Runs every contestant on every number of slots and prints a table for each, or is one contestant's process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", default="1,4,16", help="trials that run at once")
    parser.add_argument("--seconds", type=float, default=15.0, help="that a run takes ideally")
    parser.add_argument("--work-s", type=float, default=1.0, help="of a trial")
    parser.add_argument("--reports", type=int, default=1, help="of a trial")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contestant")
    parser.add_argument("--cold", action="store_true", help="trials do not wait for processes that are starting")
    parser.add_argument("--run", nargs=2, metavar=("CONTESTANT", "SLOTS"), help="be one of the processes")
    arguments = parser.parse_args(words)
    if arguments.run:
        import ray

        slots = int(arguments.run[1])
        ray.init(num_cpus=slots, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        print(json.dumps(run(arguments)))
        return
    for slots in arguments.slots.split(","):
        runs: dict[str, list[dict[str, float]]] = {OURS: [], TUNE: []}
        for name in in_turns((OURS, TUNE), arguments.repeats):
            runs[name].append(measure(arguments, name, slots))
            shown = ", ".join(f"{key} {value:.3f}" for key, value in runs[name][-1].items())
            print(f"{slots} slots: {name}: {shown}", flush=True)
        tell(f"{slots} slots, trials of {arguments.work_s:g} s, {arguments.seconds:g} s ideally", runs)


def measure(arguments: argparse.Namespace, name: str, slots: str) -> dict[str, float]:
    """The figures of one run of a contestant, in a process of its own."""
    values = {"seconds": arguments.seconds, "work-s": arguments.work_s, "reports": arguments.reports}
    words = [f"--{field}={value}" for field, value in values.items()] + ["--cold"] * arguments.cold
    words = ["-m", "benchmarks.orchestration", *words, "--run", name, slots]
    _, printed = wall_seconds(words, TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1")
    figures: dict[str, float] = json.loads(printed.splitlines()[-1])
    return figures


def tell(title: str, runs: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Prints the table of one number of slots."""
    rows = {}
    for name, figures in runs.items():
        values = {key: [each[key] for each in figures] for key in figures[0]}
        medians = {key: statistics.median(these) for key, these in values.items()}
        ours = ratio([each["time"] for each in runs[OURS]], values["time"])
        gaps = [f"{medians[key]:.1f}" for key in ("gap_ms", "gap_90_ms", "start_s")]
        share = f"{100 / medians['time']:.1f}"
        rows[name] = [*spread(values["time"], 3), share, f"{ours:.3f}", *gaps, f"{medians['whole']:.2f}"]
    columns = ["time / ideal", "min", "max", "working %", "ampsweep / it", "gap ms", "90 %", "start s", "whole"]
    show(title, columns, rows)


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """The figures of one contestant's search, on the Ray that there is.

    Raises:
        SystemExit: not all of its trials completed.
    """
    import sweeps.engine.tune  # noqa: F401  # before the clock starts, as Tune is

    name, slots = arguments.run[0], int(arguments.run[1])
    num_working = round(slots * arguments.seconds / arguments.work_s)
    num_trials = num_working + (0 if arguments.cold else slots)
    search = search_by_us if name == OURS else search_by_tune
    with tempfile.TemporaryDirectory() as folder:
        work = {"work_s": arguments.work_s, "slots": 0 if arguments.cold else slots, "started": f"{folder}/started"}
        Path(folder, "started").mkdir()
        called = time.time()
        trials = search(num_trials, arguments.reports, slots, folder, work)
        returned = time.time()
    if len(trials) != num_trials:
        raise SystemExit(f"{name}: {len(trials)} of {num_trials} trials completed")
    ideal = num_working * arguments.work_s / slots
    return {**figures_of(trials, called, ideal), "whole": (returned - called) / ideal}


def figures_of(trials: Sequence[Mapping[str, float]], called: float, ideal: float) -> dict[str, float]:
    """What the trials' own clocks say.

    Args:
        trials: :data:`CLOCK` of each; a process's first trial that only waited has no duration.
        called: when the search was called, in seconds of the epoch.
        ideal: seconds that all the work takes where slots do nothing else.

    Returns:
        ``time``: over ``ideal``; ``gap_ms`` and ``gap_90_ms``: median and 90 % quantile between two trials of a
        process that worked; ``start_s``: until all processes were there.
    """
    waited = [trial["ended"] for trial in trials if trial["ended"] == trial["began"]]
    began = max(waited) if waited else min(trial["began"] for trial in trials)
    by_process: dict[float, list[Mapping[str, float]]] = {}
    for trial in sorted(trials, key=lambda trial: trial["began"]):
        by_process.setdefault(trial["process"], []).append(trial)
    gaps = sorted(
        1e3 * (after["began"] - before["ended"])
        for those in by_process.values()
        for before, after in pairwise(those)
        if before["ended"] > before["began"]
    )
    return {
        "time": (max(trial["ended"] for trial in trials) - began) / ideal,
        "gap_ms": statistics.median(gaps),
        "gap_90_ms": gaps[len(gaps) * 9 // 10],
        "start_s": (began if waited else max(those[0]["began"] for those in by_process.values())) - called,
    }


def work(config: Mapping[str, Any], num_reports: int) -> Iterator[dict[str, float]]:
    """A trial's simulated work: after each part of it, :data:`CLOCK`."""
    if config["slots"] and is_first(Path(config["started"]), config["slots"]):
        now = time.time()
        yield from [dict(zip(CLOCK, (now, now, float(os.getpid())), strict=True))] * num_reports
        return
    began = time.time()
    for _ in range(num_reports):
        time.sleep(config["work_s"] / num_reports)
        yield dict(zip(CLOCK, (began, time.time(), float(os.getpid())), strict=True))


def is_first(folder: Path, slots: int) -> bool:
    """Whether this is the first trial of its process; if so, waits until all processes have got that far."""
    mine = folder / str(os.getpid())
    if mine.exists():
        return False
    mine.touch()
    deadline = time.monotonic() + MOST_S
    while sum(1 for _ in folder.iterdir()) < slots:
        if time.monotonic() > deadline:
            raise TimeoutError(f"fewer than {slots} processes have started in {MOST_S:g} s")
        time.sleep(0.02)
    return True


class Working(TuneTrial):
    """A trial of ours that sleeps instead of training."""

    def setup(self, config: dict[str, Any]) -> None:
        """Takes the place of building a model."""
        if config:
            self._reports = worked(config["spec"])


def worked(spec: Mapping[str, Any]) -> Iterator[Any]:
    """A trial's reports, with its clock among the metrics."""
    num_reports = spec["budget"]["max_epochs"]
    clocks = work(spec["config"], num_reports)
    for clock, report in zip(clocks, canned(spec["trial_id"], num_reports), strict=True):
        report.metrics = {**report.metrics, **{f"val_{name}": value for name, value in clock.items()}}
        yield report


def search_by_us(
    num_trials: int, num_reports: int, slots: int, folder: str, work: Mapping[str, Any]
) -> list[dict[str, float]]:
    """The clocks of the trials that our search completed, from the rows that it kept."""
    from analysis.journal import read_journal

    kept = read_journal(run_ours(num_trials, num_reports, folder, Working, **work)).trials.values()
    return [{name: row[f"val_{name}"] for name in CLOCK} for row in kept if row["status"] == "completed"]


class Sleeping(tune.Trainable):
    """The same work as a trial of Tune's, as its documentation has one be reused."""

    def setup(self, config: dict[str, Any]) -> None:
        """Counts from the beginning."""
        self._done, self._num_reports = 0, config["num_reports"]
        self._clocks = work(config, self._num_reports)

    def step(self) -> dict[str, Any]:
        """One report."""
        clock = next(self._clocks)
        self._done += 1
        return {"val_accuracy": 0.9, **clock, "done": self._done == self._num_reports}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next trial."""
        self.setup(new_config)
        return True


def search_by_tune(
    num_trials: int, num_reports: int, slots: int, folder: str, work: Mapping[str, Any]
) -> list[Mapping[str, float]]:
    """The clocks of the trials that Tune completed."""
    space = {"learning_rate": tune.loguniform(1e-4, 1e-2), "num_reports": num_reports, **work}
    results = tune.Tuner(
        tune.with_resources(Sleeping, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(num_samples=num_trials, reuse_actors=True, max_concurrent_trials=slots),
        run_config=tune.RunConfig(
            storage_path=folder, verbose=0, checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)
        ),
    ).fit()
    return [result.metrics for result in results if result.metrics]


if __name__ == "__main__":
    main()
