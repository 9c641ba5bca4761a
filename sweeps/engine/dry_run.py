"""What a sweep would do, without doing it."""

from sweeps.engine.probe import ladder_order
from sweeps.engine.resume import find_run
from sweeps.engine.stages import run_folder
from sweeps.engine.sweep import Sweep
from sweeps.search.plan import check_points, plan_search
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
    trials = plan_search(sweep, names)
    budget = sweep.budget
    length = f"{budget.max_epochs} epochs" if budget.max_steps is None else f"{budget.max_steps} steps"
    lines = [
        f"probe   a few steps in {', '.join(names)}",
        f"search  {len(trials)} trials of {len({t.config_id for t in trials})} configurations, at most {length} each",
        f"        scheduler {sweep.scheduler}, searcher {'points' if sweep.points else sweep.searcher}",
    ]
    lines += [f"        {trial.trial_id}  {_shown(trial.config)} seed={trial.seed}" for trial in trials[:SHOWN]]
    if len(trials) > SHOWN:
        lines.append(f"        ... and {len(trials) - SHOWN} more")
    if sweep.confirm is not None:
        configs = sweep.confirm.top_k * len(names)
        runs = configs * sweep.confirm.num_seeds * len(names)
        lines.append(f"confirm at most {runs} full runs of {length}, {configs * sweep.confirm.num_seeds} timed pairs")
    lines.append(f"every trial gets {sweep.cpus_per_trial:g} CPUs and {_gpus(sweep)}")
    return "\n".join(lines)


SHOWN = 6
"""Trials that are listed."""


def _shown(config: object) -> str:
    assert isinstance(config, dict)
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in config.items()
    )


def _gpus(sweep: Sweep) -> str:
    return "1 GPU where the cluster has any" if sweep.gpus_per_trial is None else f"{sweep.gpus_per_trial:g} GPUs"
