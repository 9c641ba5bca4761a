"""A sweep from beginning to end: probe, search, confirm, report."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from sweeps.engine import rows
from sweeps.engine.cluster import Resources, connected
from sweeps.engine.journal import Journal, write_declaration
from sweeps.engine.probe import ladder_order, run_probe
from sweeps.engine.progress import Progress
from sweeps.engine.recorder import Recorder
from sweeps.engine.sweep import Sweep
from sweeps.search.checks import refuse
from sweeps.search.plan import PlannedTrial, plan_confirm, plan_left_out, plan_search
from trainables.loading import TaskSource, find_task
from trainables.spec import TrialSpec

if TYPE_CHECKING:
    from analysis import Results


def run(sweep: Sweep, console: Console | None = None) -> "Results":
    """Runs a sweep and returns its results.

    Args:
        sweep: what to run.
        console: where progress is shown; default: standard output.

    Returns:
        what ``analysis.load`` gives for the run's folder.

    Raises:
        SweepError, TaskError: bad input; nothing was trained.
    """
    source = find_task(sweep.task)
    trials = plan_search(sweep, ladder_order(sweep.precisions))  # bad points are found out before Ray starts
    folder = run_folder(sweep)
    with Journal(folder) as journal, Progress(console or Console()) as progress:
        recorder = Recorder(journal, progress)
        progress.say(f"sweep   {sweep.name}: {sweep.task}, {len(trials)} trials; results go to {folder}")
        # What the task's metrics are, only the probe can tell; until then the results rank by what every task has.
        write_declaration(
            folder, _declaration(sweep, folder, metric=sweep.metric or "val_loss", mode=sweep.mode or "min")
        )
        with connected(sweep) as resources:
            _Run(sweep, source, resources, recorder).stages()
    from analysis import load  # pandas, which nothing before needs

    return load(folder)


def run_folder(sweep: Sweep) -> Path:
    """Where a run's results go.

    Raises:
        SweepError: a run of that name is there already.
    """
    name = sweep.run_name or f"{sweep.name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    folder = Path(sweep.storage) / name
    if folder.exists() and any(folder.iterdir()):
        refuse("run_name", "must be new", name, f"choose another name: {folder} exists")
    return folder


def _declaration(sweep: Sweep, folder: Path, **resolved: Any) -> dict[str, Any]:
    return {**sweep.to_json(), "run_name": folder.name, "started_at": rows.now(), **resolved}


@dataclass(frozen=True)
class _Run:
    """A sweep on its cluster.

    Args:
        sweep: what was declared.
        source: its task.
        resources: of each trial.
        recorder: takes all that happens.
    """

    sweep: Sweep
    source: TaskSource
    resources: Resources
    recorder: Recorder

    def stages(self) -> None:
        """The stages in their order, up to the last one asked for."""
        usable, metric, mode = self._probe()
        if self.sweep.stage == "probe" or not usable:
            return
        self._search(usable, metric, mode)
        if self.sweep.stage == "confirm" and self.sweep.confirm is not None:
            self._confirm(usable, metric, mode)

    def _probe(self) -> tuple[list[str], str, Literal["max", "min"]]:
        """The precisions that remain, and what the task's trials are ranked by."""
        names = ladder_order(self.sweep.precisions)
        first = next(iter(plan_search(self.sweep, names)), None)
        self.recorder.progress.stage("probe", len(names), f"a few steps in {', '.join(names)}")
        results = run_probe(
            probe_spec(self.sweep, self.source, first, self.resources), names, self.resources, self.recorder
        )
        for result in results:
            self.recorder.progress.say("  " + describe_probe(result))
        metrics = next((result["metrics"] for result in results if result["metrics"]), ())
        metric, mode = self.sweep.metric_and_mode([name for name in metrics if name != "val_loss"])
        folder = self.recorder.journal.folder
        write_declaration(folder, _declaration(self.sweep, folder, metric=metric, mode=mode))
        self.recorder.progress.ranks_by(metric, mode)
        return [result["precision"] for result in results if result["status"] == "completed"], metric, mode

    def _search(self, usable: Sequence[str], metric: str, mode: Literal["max", "min"]) -> None:
        from sweeps.engine.tune import run_search

        trials = plan_search(self.sweep, usable)
        what = f"{len(trials)} trials in {', '.join(usable)}; {self.resources.slots} at once"
        self.recorder.progress.stage("search", len(trials), what)
        for trial in plan_left_out(self.sweep, usable):
            reason = f"the probe left {trial.precision} out"
            self.recorder.record("trial", rows.never_ran(trial, "search", "excluded", reason))
        run_search(self.sweep, self.source, trials, self.resources, metric, mode, self.recorder)

    def _confirm(self, usable: Sequence[str], metric: str, mode: Literal["max", "min"]) -> None:
        from sweeps.engine.confirm import Confirmation

        assert self.sweep.confirm is not None
        searched = plan_search(self.sweep, usable)
        configs = winners(self.recorder.journal.folder, searched, metric, mode, self.sweep.confirm.top_k)
        if not configs:
            return
        used = {trial.seed for trial in searched}
        trials = plan_confirm(configs, usable, self.sweep.confirm.num_seeds, self.sweep.seed, used)
        blocks = len({trial.block_id for trial in trials})
        best = "the best configuration" if len(configs) == 1 else f"the {len(configs)} best configurations"
        what = f"{best} again: {len(trials)} full runs and {blocks} timed pairs"
        self.recorder.progress.stage("confirm", len(trials) + blocks, what)
        confirmation = Confirmation(self.source, self.sweep.budget, self.resources, metric, mode, self.recorder)
        confirmation.run_trials(trials)
        confirmation.time_blocks(trials, usable)


def probe_spec(sweep: Sweep, source: TaskSource, first: PlannedTrial | None, resources: Resources) -> TrialSpec:
    """The trial that the probe tries every precision on: the first configuration of the search."""
    config, seed = (first.config, first.seed) if first else ({}, sweep.seed)
    return TrialSpec("probe", source, config, "", seed, sweep.budget, resources.num_cpus, resources.num_gpus)


def describe_probe(result: Mapping[str, Any]) -> str:
    """A probe's result in a line."""
    precision, reason = result["precision"], result["status_reason"]
    if result["status"] != "completed":
        return f"{precision:<15}left out, {result['status'].replace('_', ' ')}: {reason}"
    return f"{precision:<15}{result['step_ms']:.3g} ms a step on {result['device']}"


def winners(
    folder: Path, trials: Sequence[PlannedTrial], metric: str, mode: Literal["max", "min"], top_k: int
) -> list[Mapping[str, Any]]:
    """The union of each precision's best configurations in a search, each once.

    Args:
        folder: of the run.
        trials: of the search.
        metric, mode: what is ranked by.
        top_k: how many of each precision.
    """
    from analysis import load
    from analysis.verdicts import ranking

    ranked = ranking(load(folder).trials, metric, mode)
    configs = {trial.config_id: trial.config for trial in trials}
    return [configs[name] for name in dict.fromkeys(name for best in ranked.values() for name in best[:top_k])]
