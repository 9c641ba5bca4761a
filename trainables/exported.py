"""An exported trial: its folder's files, and its model loaded back from them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.isolation import seed_everything
from trainables.ladder import LADDER
from trainables.loading import TaskError, TaskSource, build_task, find_task, load_function
from trainables.spec import EXPORT_FILE, PICKLE_FILE, TASK_FILE, WEIGHTS_FILE
from trainables.task import Task

NEEDED = {"task", "config", "precision", "seed"}
"""What must be known of a trial to build its model again."""


def load_exported(folder: str | Path) -> nn.Module:
    """The model that ``ampsweep export`` wrote, with its trained weights, in evaluation mode on the CPU.

    Args:
        folder: holds ``export.json``, ``weights.pt`` and the task where it was a file, ``task.py``, or a function,
            ``task.pkl``; their code is run. A task that was given as ``module:function`` must be importable.

    Raises:
        TaskError: the folder is no export, or its task cannot be found or built.
    """
    return load_exported_task(Path(folder)).model.eval()


def load_exported_task(folder: Path, trained: bool = True) -> Task:
    """The task of an exported trial, its model with the trained weights.

    Args:
        folder: as of :func:`load_exported`.
        trained: else the model keeps the weights that training began from.

    Raises:
        TaskError: as of :func:`load_exported`.
    """
    exported = read_export(folder)
    source = _exported_task(folder, exported["task"])
    load_function(source)  # its module runs before the seed is set, as in a trial
    seed_everything(exported["seed"])
    task = build_task(source, exported["config"])
    task.model.to(dtype=getattr(torch, LADDER[exported["precision"]].parameters))
    if trained:
        task.model.load_state_dict(torch.load(folder / WEIGHTS_FILE, map_location="cpu", weights_only=True))
    return task


def _exported_task(folder: Path, name: str) -> TaskSource:
    pickled, file = folder / PICKLE_FILE, folder / TASK_FILE
    if pickled.exists():
        digest = hashlib.sha256(pickled.read_bytes()).hexdigest()
        return TaskSource(name, "", directory=str(Path.cwd()), pickled=str(pickled.resolve()), digest=digest)
    return find_task(f"{file.resolve()}:{name.rpartition(':')[2]}" if file.exists() else name)


def read_export(folder: Path) -> dict[str, Any]:
    """What ``export.json`` says.

    Raises:
        TaskError: there is none, or it is damaged.
    """
    file = folder / EXPORT_FILE
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        kind = type(error).__name__
        raise TaskError(f"export: {file} must be readable, got {kind}: {error}; export the trial again") from None
    if not isinstance(found, dict) or not found.keys() >= NEEDED:
        needed = ", ".join(sorted(NEEDED))
        raise TaskError(f"export: {file} must hold an object with {needed}, got {found!r}; export the trial again")
    return found
