"""What is wrong with the places of results: facts to findings, nothing else."""

from collections.abc import Iterator

from sweeps.engine.doctor.facts import Finding, Storage, Tracking
from sweeps.engine.doctor.words import size

LOW_BYTES, NO_BYTES = 5 * 2**30, 100 * 2**20
"""Free space that checkpoints soon fill, and that is as good as none."""

PASSING = {"tmpfs": "in memory, and is gone after a restart", "overlay": "in a container's own layer, and goes with it"}
"""File systems that do not last."""


def storage_findings(storage: Storage) -> Iterator[Finding]:
    """The storage folder.

    Args:
        storage: its facts.
    """
    where = storage.folder
    if storage.error is not None:
        problem = f"{where} cannot be used ({storage.error})"
        yield Finding("storage", "folder", where, problem, "name a folder that can be written: --storage DIR", True)
        return
    yield _lasting(storage)
    if storage.total_bytes is not None:
        yield _space(storage)
    if not storage.can_lock:
        problem = f"the file system of {where} has no locks, by which a run keeps other drivers out"
        yield Finding("storage", "locks", "none", problem, "mount it with locks, or name another: --storage DIR", True)
    if storage.unseen_by:
        problem = f"{where} is not the same on all nodes, so that a sweep refuses it"
        remedy = "name a folder that all share, such as NFS, or s3://bucket/sweeps: --storage PLACE"
        yield Finding("storage", "shared", "no", problem, remedy, True, storage.unseen_by)


def _lasting(storage: Storage) -> Finding:
    value = f"{storage.folder}, can be written, {storage.file_system or 'unknown file system'}"
    if storage.file_system not in PASSING:
        return Finding("storage", "folder", value)
    problem = f"{storage.folder} lies {PASSING[storage.file_system]}"
    return Finding("storage", "folder", value, problem, "name a folder on a disk or volume that stays: --storage DIR")


def _space(storage: Storage) -> Finding:
    value = f"{size(storage.free_bytes)} of {size(storage.total_bytes)} free"
    free = storage.free_bytes
    if free is None or free >= LOW_BYTES:
        return Finding("storage", "space", value)
    problem = f"storage is nearly full: {value}"
    return Finding(
        "storage", "space", value, problem, "delete old runs, or name another: --storage DIR", free < NO_BYTES
    )


def tracking_findings(tracking: Tracking) -> Iterator[Finding]:
    """Weights & Biases.

    Args:
        tracking: its facts.
    """
    if tracking.version is None:
        problem = "wandb is not installed, so runs cannot be tracked"
        yield Finding("W&B", "wandb", "not installed", problem, "pip install wandb")
        return
    yield Finding("W&B", "wandb", tracking.version)
    if tracking.mode != "online":
        yield Finding("W&B", "login", f"not needed: WANDB_MODE={tracking.mode}")
    elif tracking.error is not None:
        problem = f"the file of keys cannot be read ({tracking.error})"
        yield Finding("W&B", "login", "unknown", problem, "mend it, then wandb login")
    elif tracking.key_from is None:
        problem = f"nobody is logged in to {tracking.host}"
        yield Finding("W&B", "login", "none", problem, "to track runs there: wandb login, or WANDB_MODE=offline")
    else:
        yield Finding("W&B", "login", f"{tracking.host}, key from {tracking.key_from}")
