"""Reading the results of a large sweep: ``analysis.load`` and Ray Tune's ``ExperimentAnalysis`` on the same figures.

    python -m benchmarks.load [--trials 10000] [--reports 20] [--rounds 3]

A real Tune experiment of one trial is cloned, folder by folder, and our journal is written as the engine writes it,
both from the same random metrics. What is read is compared: every metric of every trial and report must be the same
number. Tune's time is that of ``ExperimentAnalysis(folder).dataframe()``, which reads all trials; ours gives tables of
trials and reports.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.timing import in_turns, ratio, show, spread, wall_seconds

if TYPE_CHECKING:
    import pandas as pd

OURS, TUNE = "ampsweep, load", "Ray Tune, ExperimentAnalysis"
METRICS = ("train_loss", "val_loss", "val_accuracy", "learning_rate")


def main() -> None:
    """Writes both kinds of results, times reading them, compares them and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--reports", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--read", nargs=2, metavar=("READER", "FOLDER"), help="read once in this process, print seconds"
    )
    arguments = parser.parse_args()
    if arguments.read:
        print(seconds_of_reading(*arguments.read))
        return
    from ray.tune import ExperimentAnalysis

    from analysis import load

    figures = np.random.default_rng(0).random((arguments.trials, arguments.reports, len(METRICS)))
    with tempfile.TemporaryDirectory() as folder:
        folders = {OURS: write_ours(Path(folder) / "ours", figures), TUNE: write_tune(Path(folder), figures)}
        compare(folders, arguments.rounds, f"{arguments.trials} trials of {arguments.reports} reports")
        check_ours(load(folders[OURS]).history, figures)
        check_tune(ExperimentAnalysis(str(folders[TUNE])).trial_dataframes, figures)
    print(f"checked: {figures.size} figures and their types are the same in both")


def seconds_of_reading(reader: str, folder: str) -> float:
    """Seconds of reading once, without the imports."""
    if reader == OURS:
        from analysis import load as read
    else:
        from ray.tune import ExperimentAnalysis as read
    started = time.perf_counter()
    results = read(folder)
    if reader == TUNE:
        results.dataframe()
    return time.perf_counter() - started


def compare(folders: dict[str, Path], num_rounds: int, title: str) -> None:
    """Times both in turns, as whole processes and reading alone."""
    whole: dict[str, list[float]] = {name: [] for name in folders}
    alone: dict[str, list[float]] = {name: [] for name in folders}
    for name in in_turns(list(folders), num_rounds):
        wall, printed = wall_seconds(["-m", "benchmarks.load", "--read", name, str(folders[name])])
        whole[name].append(wall)
        alone[name].append(float(printed))
        print(f"{name}: {wall:.1f} s, reading {alone[name][-1]:.2f} s", flush=True)
    rows = {
        name: [
            *spread(whole[name]),
            f"{ratio(whole[name], whole[OURS]):.1f}",
            f"{statistics.median(alone[name]):.2f}",
            f"{ratio(alone[name], alone[OURS]):.1f}",
        ]
        for name in folders
    }
    show(title, ["process s", "min", "max", "it / ampsweep", "reading alone s", "it / ampsweep"], rows)


def trial_name(index: int) -> str:
    """A trial's id and folder, in both: always as long, so that one can stand in the other's place."""
    return f"search-{index:08d}"


def write_ours(folder: Path, figures: Any) -> Path:
    """A results folder as the engine writes it."""
    from sweeps import Sweep, loguniform
    from sweeps.engine import rows
    from sweeps.engine.journal import Journal, write_declaration
    from sweeps.search.plan import PlannedTrial
    from trainables.report import TrialReport

    sweep = Sweep(name="many", task="trainables.tasks.digits:build", space={"learning_rate": loguniform(1e-4, 1e-2)})
    with Journal(folder) as journal:
        declared = {**sweep.to_json(), "run_name": folder.name, "metric": "val_accuracy", "mode": "max"}
        write_declaration(folder, declared)
        for index, trial in enumerate(figures.tolist()):
            name = trial_name(index)
            config = {"learning_rate": trial[0][-1]}
            planned = PlannedTrial(index, name, f"{index:08x}", f"{index:08x}-0", config, "fp32", 0)
            journal.write("trial", rows.started(planned, "search", 1, 0))
            for epoch, (train_loss, val_loss, val_accuracy, learning_rate) in enumerate(trial, 1):
                metrics = {"val_loss": val_loss, "val_accuracy": val_accuracy}
                report = TrialReport(name, epoch=epoch, step=22 * epoch, train_loss=train_loss, metrics=metrics)
                report.learning_rate, report.train_s, report.grad_norm = learning_rate, 0.1 * epoch, 1.0
                report.highest = report.lowest = metrics
                journal.write("report", rows.reported("search", report.to_dict()))
            ended = rows.ended(name, report.to_dict(), "completed", None, "val_accuracy", "max")
            journal.write("trial", ended)
    return folder


def write_tune(folder: Path, figures: Any) -> Path:
    """An experiment's folder as Tune writes it: one that it wrote, with its trial cloned."""
    experiment, num_reports = run_tune(folder, figures.shape[1]), figures.shape[1]
    [state_file] = experiment.glob("experiment_state-*.json")
    state = json.loads(state_file.read_text())
    [template] = state["trial_data"]
    lines = [json.loads(line) for line in (experiment / trial_name(0) / "result.json").read_text().splitlines()]
    assert len(lines) == num_reports
    own_id = lines[0]["trial_id"]
    state["trial_data"] = []
    for index, trial in enumerate(figures.tolist()):
        new_id = f"{index:0{len(own_id)}d}"
        renamed = [swap(swap(each, trial_name(0), trial_name(index)), own_id, new_id) for each in template]
        state["trial_data"].append(renamed)
        (experiment / trial_name(index)).mkdir(exist_ok=True)
        with (experiment / trial_name(index) / "result.json").open("w") as results:
            for line, values in zip(lines, trial, strict=True):
                figures_now = dict(zip(METRICS, values, strict=True))
                results.write(json.dumps(line | figures_now | {"trial_id": new_id}) + "\n")
    state_file.write_text(json.dumps(state))
    return experiment


def swap(text: str, old: str, new: str) -> str:
    """Replaces a name in JSON and in the pickles within, which are hexadecimal; both names are as long."""
    return text.replace(old, new).replace(old.encode().hex(), new.encode().hex())


def run_tune(folder: Path, num_reports: int) -> Path:
    """The folder of a real experiment of one trial, with all that Tune logs by itself."""
    import ray
    from ray import tune

    def train(config: dict[str, Any]) -> None:
        for _ in range(num_reports):
            tune.report(dict.fromkeys(METRICS, 0.5))

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    results = tune.Tuner(
        train,
        param_space={"learning_rate": tune.loguniform(1e-4, 1e-2)},
        tune_config=tune.TuneConfig(trial_dirname_creator=lambda trial: trial_name(0)),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
    ).fit()
    ray.shutdown()
    return Path(results.experiment_path)


def check_ours(history: "pd.DataFrame", figures: Any) -> None:
    """Raises unless our history holds the figures, with the schema's types."""
    from analysis.schema import HISTORY_COLUMNS

    num_trials, num_reports, _ = figures.shape
    expected = [trial_name(index) for index in range(num_trials) for _ in range(num_reports)]
    require(history["trial_id"].tolist() == expected, "trials of our history")
    require((history["epoch"].to_numpy() == np.tile(np.arange(1, num_reports + 1), num_trials)).all(), "epochs")
    require(np.array_equal(history[list(METRICS)].to_numpy(), figures.reshape(-1, len(METRICS))), "our figures")
    dtypes = {name: str(dtype) for name, dtype in history.dtypes.items()}
    require(dtypes == HISTORY_COLUMNS | {"val_accuracy": "float64"}, "types of our history")


def check_tune(frames: "dict[str, pd.DataFrame]", figures: Any) -> None:
    """Raises unless Tune's tables hold the figures."""
    require(len(frames) == len(figures), "number of Tune's trials")
    for (trial_id, frame), expected in zip(sorted(frames.items()), figures, strict=True):
        require(np.array_equal(frame[list(METRICS)].to_numpy(), expected), f"Tune's figures of {trial_id}")
        require(frame["training_iteration"].tolist() == list(range(1, len(expected) + 1)), "Tune's iterations")
        require((frame["trial_id"] == trial_id).all(), "Tune's trial ids")
        require(set(frame[list(METRICS)].dtypes.astype(str)) == {"float64"}, "Tune's types")


def require(holds: Any, what: str) -> None:
    """Ends the benchmark where a comparison fails."""
    if not holds:
        sys.exit(f"not the same: {what}")


if __name__ == "__main__":
    main()
