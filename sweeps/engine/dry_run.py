"""What a sweep would do, without doing it."""

from sweeps.engine.probe import ladder_order
from sweeps.engine.resume import find_run
from sweeps.engine.stages import run_folder
from sweeps.engine.sweep import Sweep
from sweeps.search.plan import PlannedTrial, check_points, follows_results, plan_search, preview
from trainables.loading import find_task


def describe(sweep: Sweep) -> str:
    """The plan of a sweep in a few lines, at most what its budget allows.

    Args:
        sweep: what would run.

    Raises:
        SweepError, TaskError: it could not run.
    """
    find_task(sweep.task)
    check_points(sweep)
    if sweep.resume:
        find_run(sweep)
    else:
        run_folder(sweep)
    names = ladder_order(sweep.precisions)
    budget = sweep.budget
    length = f"{budget.max_epochs} epochs" if budget.max_steps is None else f"{budget.max_steps} steps"
    lines = [f"probe   a few steps in {', '.join(names)}", *_search(sweep, names, length)]
    if sweep.confirm is not None:
        configs = sweep.confirm.top_k * len(names)
        runs = configs * sweep.confirm.num_seeds * len(names)
        lines.append(f"confirm at most {runs} full runs of {length}, {configs * sweep.confirm.num_seeds} timed pairs")
    lines.append(f"every trial gets {sweep.cpus_per_trial:g} CPUs and {_gpus(sweep)}")
    return "\n".join(lines)


def _search(sweep: Sweep, precisions: list[str], length: str) -> list[str]:
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
    more = [f"        ... and {len(trials) - SHOWN} more"] if len(trials) > SHOWN else []
    return [*lines, *map(_listed, trials[:SHOWN]), *more]


SHOWN = 6
"""Trials that are listed."""


def _listed(trial: PlannedTrial) -> str:
    config = " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in trial.config.items()
    )
    return f"        {trial.trial_id}  {config} seed={trial.seed}"


def _gpus(sweep: Sweep) -> str:
    return "1 GPU where the cluster has any" if sweep.gpus_per_trial is None else f"{sweep.gpus_per_trial:g} GPUs"
