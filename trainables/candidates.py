"""The models of a comparison, from wherever they come: exported folders, Hugging Face folders, functions."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from trainables.adapters.hugging_face import CONFIG_FILE, load_pretrained
from trainables.exported import load_exported_task
from trainables.isolation import seed_everything
from trainables.loading import TaskError, describe, find_task, load_function
from trainables.memory import is_out_of_memory
from trainables.spec import EXPORT_FILE
from trainables.task import Task

INITIAL = "initial"
"""In place of a baseline: the model of the exported folder as it was before training."""

KINDS = (
    "give a folder that ampsweep export wrote, a Hugging Face folder (config.json and weights), or module:function or "
    "path/to/file.py:function returning a torch.nn.Module or a Task"
)


@dataclass(frozen=True)
class Candidate:
    """A model to compare.

    Args:
        place: as the user named it.
        model: the module.
        task: that it came with; ``None`` where it came alone.
    """

    place: str
    model: nn.Module
    task: Task | None = None


def load_candidate(field: str, place: str, seed: int) -> Candidate:
    """The model at a place.

    Args:
        field: what errors call the place.
        place: a folder, or ``"module:function"`` or ``"path/to/file.py:function"``.
        seed: of every generator, for functions that draw initial weights.

    Raises:
        TaskError: no model can be had there; one line that says what to give.
    """
    with failing_as(field, place):
        folder = Path(place)
        if (folder / EXPORT_FILE).is_file():
            task = load_exported_task(folder)
            return Candidate(place, task.model, task)
        if (folder / CONFIG_FILE).is_file():
            return Candidate(place, load_pretrained(folder))
        if folder.exists() or ":" not in place:
            what = "hold export.json or config.json" if folder.is_dir() else "be a model's folder or function"
            raise TaskError(f"{field}: must {what}, got {place!r}; {KINDS}")
        found = call_function(place, seed)
        if isinstance(found, Task):
            return Candidate(place, found.model, found)
        if not isinstance(found, nn.Module):
            condition = f"{field}: {place} must return a torch.nn.Module or a Task"
            raise TaskError(f"{condition}, got {type(found).__name__}; correct what it returns")
        return Candidate(place, found)


def load_initial(field: str, folder: str) -> Candidate:
    """The model of an exported folder with the weights that its training began from.

    Args:
        field: what errors call it.
        folder: that ``ampsweep export`` wrote.

    Raises:
        TaskError: it is no such folder.
    """
    with failing_as(field, folder):
        if not (Path(folder) / EXPORT_FILE).is_file():
            condition = f"{field}: {INITIAL} must stand beside a MODEL that ampsweep export wrote"
            raise TaskError(f"{condition}, got {folder!r}; name the baseline itself")
        task = load_exported_task(Path(folder), trained=False)
        return Candidate(f"{folder} before training", task.model, task)


def call_function(place: str, seed: int) -> Any:
    """What a function returns: called without arguments where it can be, else with an empty configuration.

    Args:
        place: ``"module:function"`` or ``"path/to/file.py:function"``.
        seed: of every generator, once its module has been imported, which may draw numbers itself.

    Raises:
        TaskError: it cannot be found.
    """
    function = load_function(find_task(place, or_none=True))
    arguments: tuple[Mapping[str, Any], ...] = ()
    try:
        inspect.signature(function).bind()
    except TypeError:
        arguments = ({},)
    except ValueError:  # some that are written in C do not tell
        pass
    seed_everything(seed)
    return function(*arguments)


@contextmanager
def failing_as(field: str, place: str) -> Iterator[None]:
    """Has whatever fails inside end in one line that begins with a field; running out of memory goes through."""
    try:
        yield
    except TaskError as error:
        raise TaskError(f"{field}: {str(error).partition(': ')[2]}") from error
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        raise TaskError(f"{field}: {place} must load without an error, got {describe(error)}; correct it") from error
