"""What a run is given: its CPUs, GPUs and workers."""

from typing import TYPE_CHECKING

from sweeps.search.checks import LEAST_SHARE, number, refuse, share_of_gpus, whole

if TYPE_CHECKING:
    from sweeps.engine.sweep import Sweep


def check_resources(sweep: "Sweep") -> dict[str, object]:
    """The resource fields of a sweep, validated.

    Args:
        sweep: as declared.

    Raises:
        SweepError: one is not usable, or does not fit the others.
    """
    num_workers = whole("workers_per_trial", sweep.workers_per_trial, at_least=1, remedy="give the number of processes")
    least_cpus = LEAST_SHARE * num_workers
    checked: dict[str, object] = {
        "workers_per_trial": num_workers,
        "cpus_per_trial": number(
            "cpus_per_trial", sweep.cpus_per_trial, at_least=least_cpus, remedy="give 1 or more, or a share as 0.5"
        ),
        "checkpoint_every_s": number(
            "checkpoint_every_s", sweep.checkpoint_every_s, at_least=0, remedy="30 loses at most that much of a trial"
        ),
    }
    if sweep.gpus_per_trial is not None:
        checked["gpus_per_trial"] = gpus = share_of_gpus("gpus_per_trial", sweep.gpus_per_trial)
        if num_workers > 1 and gpus % num_workers:
            condition = f"must be 0 or whole for each of {num_workers} workers"
            refuse("gpus_per_trial", condition, sweep.gpus_per_trial, f"give {num_workers}, or leave it out")
    if sweep.fsdp and num_workers < 2:
        refuse("fsdp", "needs several workers to share a model", sweep.fsdp, "set workers_per_trial to 2 or more")
    return checked
