"""Batches of texts, padded to their longest one and gathered at once from the tokens on disk."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trainables.language.cache import Array

Batch: TypeAlias = dict[str, torch.Tensor]


class TextData(Dataset[Batch]):
    """Labelled texts; an item is a batch of one, and a list of indices is a whole batch.

    Args:
        ids: token ids of all texts, one after the other.
        offsets: (num_texts + 1,) where each begins.
        labels: (num_texts,) class numbers.
        padding: the token id that shorter texts are filled up with, on the right.
        order: which text each index means; default: as they come.
    """

    def __init__(
        self,
        ids: Array,
        offsets: NDArray[np.int64],
        labels: NDArray[np.int64],
        padding: int,
        order: NDArray[np.int64] | None = None,
    ) -> None:
        starts, lengths = offsets[:-1], np.diff(offsets)
        self._ids, self._padding = ids, padding
        self._starts, self._lengths, self._labels = (
            np.array(each if order is None else each[order]) for each in (starts, lengths, labels)
        )

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of some texts: ``input_ids`` and ``attention_mask`` (B, T), ``labels`` (B,); all int64."""
        picked = np.asarray(indices)
        lengths = self._lengths[picked, None]
        place = np.arange(lengths.max())
        inside = place < lengths
        positions = np.where(inside, self._starts[picked, None] + place, 0)
        ids = np.where(inside, self._ids[positions], self._padding).astype(np.int64)
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(inside.astype(np.int64)),
            "labels": torch.from_numpy(self._labels[picked]),
        }

    def join(self, items: Any) -> Batch:
        """A batch as it comes, or one made of items: what a task gives as its ``collate``.

        Args:
            items: a whole batch, which PyTorch's loader gets from :meth:`__getitems__`, or a list of items.
        """
        if isinstance(items, Mapping):
            return dict(items)
        widest = max(item["input_ids"].shape[1] for item in items)
        return {name: torch.cat([self._padded(name, item[name], widest) for item in items]) for name in items[0]}

    def _padded(self, name: str, value: torch.Tensor, width: int) -> torch.Tensor:
        missing = width - value.shape[1] if value.dim() == 2 else 0
        filler = self._padding if name == "input_ids" else 0
        return torch.nn.functional.pad(value, (0, missing), value=filler) if missing else value
