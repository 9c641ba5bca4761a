"""What a sweep would do, without doing it."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from sweeps.engine.dry_costs import costs
from sweeps.engine.folders import new_home
from sweeps.engine.probe import ladder_order
from sweeps.engine.source import find_source
from sweeps.engine.sweep import Sweep
from sweeps.engine.tracking import check_installed
from sweeps.engine.unfinished import find_run
from sweeps.search.configurations import Configuration
from sweeps.search.plan import PlannedTrial, check_points, follows_results, plan_search, preview
from sweeps.search.unsearched import given_configs

if TYPE_CHECKING:
    from analysis import Results


def show(sweep: Sweep, console: Console) -> "Results":
    """Shows the plan of a sweep, and gives the results that it has: of a run without trials.

    Args:
        sweep: what would run.
        console: where it is shown.

    Raises:
        SweepError, TaskError: it could not run.
    """
    from analysis.results import nothing_measured

    console.print(Text(describe(sweep)), soft_wrap=True)
    ranked = {"metric": sweep.metric or "val_loss", "mode": sweep.mode or "min"}
    return nothing_measured({**sweep.to_json(), "run_name": sweep.run_name or sweep.name, **ranked})


def describe(sweep: Sweep) -> str:
    """The plan of a sweep in a few lines, at most what its budget allows.

    Args:
        sweep: what would run.

    Raises:
        SweepError, TaskError: it could not run.
    """
    find_source(sweep.task)
    check_points(sweep)
    check_installed(sweep)
    if sweep.resume:
        find_run(sweep).forget()
    else:
        new_home(sweep)
    names = ladder_order(sweep.precisions)
    budget = sweep.budget
    length = f"{budget.max_epochs} epochs" if budget.max_steps is None else f"{budget.max_steps} steps"
    lines = [f"probe   a few steps in {', '.join(names)}", *_search(sweep, names, length)]
    if sweep.confirm is not None:
        configs = sweep.confirm.top_k * len(names) if sweep.num_trials else len(given_configs(sweep))
        runs = configs * sweep.confirm.num_seeds * len(names)
        pairs = configs * sweep.confirm.num_seeds
        lines.append(f"confirm at most {runs} full runs of {length}, {pairs} timed pairs, on each device type")
    lines.append(f"every trial gets {sweep.cpus_per_trial:g} CPUs and {_gpus(sweep)}")
    return "\n".join([*lines, *costs(sweep)])


def _search(sweep: Sweep, precisions: list[str], length: str) -> list[str]:
    if sweep.num_trials == 0:
        lines = [f"        {_config(config) or 'every hyperparameter by default'}" for config in given_configs(sweep)]
        return ["search  none; what is confirmed is", *_shortened(lines)]
    declared = sweep.to_json()
    how = f"        scheduler {declared['scheduler']}, searcher {'points' if sweep.points else declared['searcher']}"
    if follows_results(sweep):
        num_trials, first = preview(sweep, precisions)
        assert first is not None
        lines = [f"search  at most {num_trials} trials in {', '.join(precisions)}, at most {length} each", how]
        rest = (
            f"        ... and {num_trials - 1} whose configurations follow from results, in each precision from its own"
        )
        return [*lines, _listed(first), rest]
    trials = plan_search(sweep, precisions)
    configs = len({trial.config_id for trial in trials})
    lines = [f"search  {len(trials)} trials of {configs} configurations, at most {length} each", how]
    return [*lines, *_shortened([_listed(trial) for trial in trials])]


SHOWN = 6
"""Trials or configurations that are listed."""


def _shortened(lines: list[str]) -> list[str]:
    more = [f"        ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [*lines[:SHOWN], *more]


def _listed(trial: PlannedTrial) -> str:
    return f"        {trial.trial_id}  {_config(trial.config)} seed={trial.seed}"


def _config(config: Configuration) -> str:
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in config.items()
    )


def _gpus(sweep: Sweep) -> str:
    return "1 GPU where the cluster has any" if sweep.gpus_per_trial is None else f"{sweep.gpus_per_trial:g} GPUs"
