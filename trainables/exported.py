"""An exported trial: its folder's files, and its model loaded back from them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.isolation import seed_everything
from trainables.ladder import LADDER
from trainables.loading import TaskError, TaskSource, build_task, find_task
from trainables.spec import EXPORT_FILE, PICKLE_FILE, TASK_FILE, WEIGHTS_FILE


def load_exported(folder: str | Path) -> nn.Module:
    """The model that ``ampsweep export`` wrote, with its trained weights, in evaluation mode on the CPU.

    Args:
        folder: holds ``export.json``, ``weights.pt`` and the task where it was a file, ``task.py``, or a function,
            ``task.pkl``; their code is run. A task that was given as ``module:function`` must be importable.

    Raises:
        TaskError: the folder is no export, or its task cannot be found or built.
    """
    folder = Path(folder)
    exported = read_export(folder)
    source = _exported_task(folder, exported["task"])
    seed_everything(exported["seed"])
    model = build_task(source, exported["config"]).model
    model.to(dtype=getattr(torch, LADDER[exported["precision"]].parameters))
    model.load_state_dict(torch.load(folder / WEIGHTS_FILE, map_location="cpu", weights_only=True))
    return model.eval()


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
    try:
        found = json.loads((folder / EXPORT_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise TaskError(f"export: {folder} has no readable {EXPORT_FILE} ({error}); pass an exported folder") from None
    if not isinstance(found, dict):
        raise TaskError(f"export: {folder / EXPORT_FILE} must hold an object; export the trial again")
    return found
