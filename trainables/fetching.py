"""Batches of data sets that read and decode, drawn ahead by processes of their own, the same however many there are."""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from trainables.checkpoint import rng_state, set_rng_state
from trainables.outputs import to_device
from trainables.task import Batch

Chunk = tuple[int, Sequence[torch.Tensor]]
"""An epoch, and the indices (n,) of each of its batches, or of some of them."""

Stream = Callable[[Iterable[Chunk]], Iterator[Batch]]
"""Chunks -> their batches, one after the other."""

PREFETCH_FACTOR = 2
"""Batches that each process draws ahead."""


class Seeded(Dataset[Batch]):
    """A data set by the batch, each a function of seed, epoch and indices alone, whichever process draws it and when.

    Whatever an item or ``collate`` draws at random, from the generators of Python, NumPy or torch, follows a seed of
    that item; where the data set gives whole batches (``__getitems__``), of the batch. The process's own generators
    stay where they are.

    Args:
        data: a map-style data set.
        collate: as ``DataLoader``'s ``collate_fn``.
        seed: of the run.
    """

    def __init__(self, data: Dataset[Any], collate: Callable[[list[Any]], Batch] | None, seed: int) -> None:
        self._data, self._collate, self._seed = data, collate or default_collate, seed

    def __getitem__(self, key: tuple[int, list[int]]) -> Batch:
        """The batch of an epoch that consists of the items at some indices."""
        if get_worker_info() is not None:
            return self._draw(*key)
        before = rng_state(torch.device("cpu"))
        try:
            return self._draw(*key)
        finally:
            set_rng_state(before, torch.device("cpu"))

    def _draw(self, epoch: int, indices: list[int]) -> Batch:
        whole = getattr(self._data, "__getitems__", None)
        if whole is not None:
            self._seed_for(epoch, indices[0])
            return self._collate(whole(indices))
        items = []
        for index in indices:
            self._seed_for(epoch, index)
            items.append(self._data[index])
        return self._collate(items)

    def _seed_for(self, epoch: int, index: int) -> None:
        key = hashlib.blake2b(f"{self._seed} {epoch} {index}".encode(), digest_size=8)
        seed = int.from_bytes(key.digest(), "little")
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - user code draws from the global generator
        torch.default_generator.manual_seed(seed)  # a worker must not touch the GPU, as torch.manual_seed would


def fetcher(data: Seeded, num_workers: int, device: torch.device, dtype: torch.dtype | None) -> Stream:
    """Streams of a data set's batches, in their order.

    The processes of a stream live as long as it does: they start once for an endless one.

    Args:
        data: what is drawn from.
        num_workers: processes that draw ahead; 0 draws here, each batch when it is asked for.
        device: where batches are wanted.
        dtype: of their floating-point inputs; ``None`` leaves them.
    """

    def stream(chunks: Iterable[Chunk]) -> Iterator[Batch]:
        keys = ((epoch, part.tolist()) for epoch, parts in chunks for part in parts)
        if num_workers == 0:
            return (to_device(data[key], device, dtype) for key in keys)
        loader = DataLoader(
            data,
            batch_size=None,
            sampler=keys,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            prefetch_factor=PREFETCH_FACTOR,
            pin_memory=device.type == "cuda",
            multiprocessing_context="fork",  # models, losses and data sets of a task need not survive pickling
            generator=torch.Generator(),  # else each stream draws from the generator that dropout uses
        )
        return (to_device(batch, device, dtype) for batch in loader)

    return stream


def _as_it_is(batch: Batch) -> Batch:
    return batch
