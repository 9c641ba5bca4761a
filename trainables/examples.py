"""The examples of a comparison: a task's validation set, a data set that a function gives, or tensors in a file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from trainables.candidates import call_function, failing_as
from trainables.data import streamer
from trainables.loading import TaskError
from trainables.task import Batch, Task

DATA = "--data"
"""What errors call the examples: the flag that they are given by."""

INPUT_KEYS, LABEL_KEYS = ("x", "inputs"), ("y", "labels", "targets")
"""Names in a file of exactly two tensors: the model's one input, and what its outputs are compared with."""

FILES = (".pt", ".pth", ".npz")

KINDS = f"give module:function or file.py:function returning a data set or a Task, or a {', '.join(FILES)} file"


@dataclass(frozen=True)
class Examples:
    """What two models are compared on.

    Args:
        place: as the user named it, or of whom it is the validation set.
        data: a map-style data set.
        task: whose loss, metrics and collation hold; ``None`` for the defaults.
        collates: whether the task's collation makes batches of this data.
    """

    place: str
    data: Dataset[Any]
    task: Task | None = None
    collates: bool = True

    @property
    def num(self) -> int:
        """How many there are."""
        return len(self.data)  # type: ignore[arg-type]

    def sample(self, num: int, seed: int) -> "Examples":
        """That many of them, drawn without replacement by the seed, in their own order."""
        if num >= self.num:
            return self
        picked = torch.randperm(self.num, generator=torch.Generator().manual_seed(seed))[:num].sort().values
        tensors = self.data.tensors if isinstance(self.data, TensorDataset) else None
        chosen: Dataset[Any] = Subset(self.data, picked.tolist())
        if tensors is not None:
            chosen = TensorDataset(*(tensor[picked] for tensor in tensors))
        return Examples(self.place, chosen, self.task, self.collates)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All of them in their order on the CPU, the last batch as small as it comes."""
        collate = self.task.collate if self.task is not None and self.collates else None
        stream = streamer(self.data, collate, torch.device("cpu"), None)
        return stream([(0, torch.arange(self.num).split(batch_size))])


class _Columns(Dataset[dict[str, torch.Tensor]]):
    """Tensors by name, an item being one row of each."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self._tensors.values())))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: tensor[index] for name, tensor in self._tensors.items()}


def load_examples(place: str | None, task: Task | None, owner: str, seed: int) -> Examples:
    """The examples at a place.

    Args:
        place: a function or a file; ``None`` for the task's validation set.
        task: of the model, whose loss and metrics hold for data that brings none.
        owner: the model's place.
        seed: of every generator, for functions that draw.

    Raises:
        TaskError: there are none; one line that says what to give.
    """
    if place is None:
        if task is None:
            raise TaskError(f"{DATA}: must be given where MODEL comes without a task, got nothing; {KINDS}")
        return Examples(f"validation set of {owner}", task.val_set, task)
    with failing_as(DATA, place):
        if place.endswith(FILES):
            return Examples(place, _read_file(place), task, collates=False)
        if ":" not in place:
            raise TaskError(f"{DATA}: must be a function or a file, got {place!r}; {KINDS}")
        found = call_function(place, seed)
        if isinstance(found, Task):
            return Examples(place, found.val_set, found)
        if not (hasattr(found, "__len__") and hasattr(found, "__getitem__")):
            condition = f"{DATA}: {place} must return a map-style data set (with len() and []) or a Task"
            raise TaskError(f"{condition}, got {type(found).__name__}; correct what it returns")
        if len(found) == 0:
            raise TaskError(f"{DATA}: {place} must return at least one example, got none; correct what it returns")
        return Examples(place, found, task)


def _read_file(place: str) -> Dataset[Any]:
    """The tensors of a file as a data set; neither kind of file can run code here."""
    path = Path(place)
    if not path.is_file():
        raise TaskError(f"{DATA}: must be a function or an existing file, got {place!r}; check the path")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            content: Any = dict(arrays)
    else:
        content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, tuple | list) and len(content) == 2:
        content = dict(zip(("x", "y"), content, strict=True))
    if not isinstance(content, Mapping) or not content:
        kind = type(content).__name__
        raise TaskError(f"{DATA}: {place} must hold tensors by name, got {kind}; save a dict with x and y")
    return _data_of(place, {str(name): _tensor(value) for name, value in content.items()})


def _data_of(place: str, tensors: Mapping[str, torch.Tensor]) -> Dataset[Any]:
    lengths = {name: len(tensor) if tensor.dim() else None for name, tensor in tensors.items()}
    if len(set(lengths.values())) > 1 or not all(lengths.values()):
        shown = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise TaskError(
            f"{DATA}: {place} must hold a row of every tensor for each example, got {shown}; make their lengths equal"
        )
    inputs = [name for name in INPUT_KEYS if name in tensors]
    labels = [name for name in LABEL_KEYS if name in tensors]
    if len(tensors) == 2 and len(inputs) == len(labels) == 1:
        return TensorDataset(tensors[inputs[0]], tensors[labels[0]])
    return _Columns(tensors)


def _tensor(value: Any) -> torch.Tensor:
    """FP64, NumPy's default, becomes FP32, which models are in."""
    tensor = torch.as_tensor(value)
    return tensor.float() if tensor.dtype is torch.float64 else tensor
