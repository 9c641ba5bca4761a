"""Batches in an order that depends on the seed and the epoch alone, so that paired and resumed runs see the same."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from trainables.fetching import Chunk, Seeded, Stream, fetcher
from trainables.outputs import to_device
from trainables.task import Batch, Task
from trainables.team import ALONE, Team

MEGABATCH = 50
"""Batches whose items are sorted by length together: enough to pad little, few enough to keep epochs different."""

RESIDENT_BYTES = 2 << 30
"""Tensor data sets up to this size stay on the GPU."""


def epoch_order(num_items: int, seed: int, epoch: int) -> torch.Tensor:
    """The permutation (num_items,) in which an epoch visits the training set."""
    return torch.randperm(num_items, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def grouped_order(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> torch.Tensor:
    """The order (num_items,) of an epoch in which items of similar length share a batch and batches come shuffled."""
    order = epoch_order(len(lengths), seed, epoch)
    length = torch.as_tensor(lengths)
    chunks = order.split(batch_size * MEGABATCH)
    order = torch.cat([chunk[length[chunk].argsort(descending=True, stable=True)] for chunk in chunks])
    batches = order.split(batch_size)
    full, rest = [b for b in batches if len(b) == batch_size], [b for b in batches if len(b) < batch_size]
    shuffled = epoch_order(len(full), seed, epoch)
    return torch.cat([full[i] for i in shuffled.tolist()] + rest)


class TrainingData:
    """The training set as an endless run of batches; an incomplete last batch of an epoch is dropped.

    Nothing is drawn ahead but by worker processes, for what items draw at random from the run's own generators has to
    go on where a saved run stopped.

    Args:
        task: its training set, ``collate``, ``lengths`` and ``num_workers``.
        batch_size: examples per optimizer step; a smaller training set is one batch.
        num_parts: micro-batches that each batch comes in.
        seed: of the order.
        device: where batches are wanted.
        dtype: of their floating-point tensors; ``None`` leaves them.
        team: whose workers each take their share of every micro-batch.

    ``shares`` are what the losses of a worker's micro-batches are weighted with: the parts of a batch's examples that
    they hold, times the number of workers. They are equal, but where the training set is smaller than a batch the last
    one may be smaller.

    Raises:
        ValueError: a worker would have no example of a micro-batch.
    """

    def __init__(
        self,
        task: Task,
        batch_size: int,
        num_parts: int,
        seed: int,
        device: torch.device,
        dtype: torch.dtype | None,
        team: Team = ALONE,
    ) -> None:
        self._task, self._seed, self._team = task, seed, team
        self.num_items: int = len(task.train_set)  # type: ignore[arg-type]
        self.batch_size = min(batch_size, self.num_items)
        self.steps_per_epoch = self.num_items // self.batch_size
        self._part_size = -(-self.batch_size // num_parts)
        own = [len(self._own(part)) for part in torch.arange(self.batch_size).split(self._part_size)]
        if not all(own):
            raise ValueError(
                f"batch_size must give each of {team.size} workers an example of every micro-batch, got "
                f"{self.batch_size} in {len(own)}; use a larger batch_size or fewer accumulate_steps"
            )
        self.shares = [num * team.size / self.batch_size for num in own]
        own_seed = seed if task.num_workers else None
        self._stream = streamer(task.train_set, task.collate, device, dtype, own_seed, task.num_workers)
        self._apart = streamer(task.train_set, task.collate, device, dtype, own_seed)
        self._digest, self._num_digested = b"", 0
        self._first_content = self._hash_first_part()  # at once: items may be drawn at random, in later state

    def _hash_first_part(self) -> bytes:
        """A fingerprint of the first micro-batch as the data set gives it, before any precision touches it."""
        content = hashlib.sha256()
        with torch.random.fork_rng(devices=[]):
            own_seed = self._seed if self._task.num_workers else None
            stream = streamer(self._task.train_set, self._task.collate, torch.device("cpu"), None, own_seed)
            _hash_batch(next(stream([(0, [self.order(0)[: self._part_size]])])), content)
        return content.digest()

    def _own(self, part: torch.Tensor) -> torch.Tensor:
        """A worker's share of a micro-batch: one item in so many, so that all have items of about the same lengths."""
        return part if self._team.size == 1 else part[self._team.rank :: self._team.size]

    def _parts(self, order: torch.Tensor) -> list[list[torch.Tensor]]:
        """A worker's share of the micro-batches of each optimizer step."""
        return [[self._own(part) for part in whole.split(self._part_size)] for whole in order.split(self.batch_size)]

    def order(self, epoch: int) -> torch.Tensor:
        """Indices (steps_per_epoch * batch_size,) of an epoch."""
        if self._task.lengths is None:
            order = epoch_order(self.num_items, self._seed, epoch)
        else:
            order = grouped_order(self._task.lengths, self.batch_size, self._seed, epoch)
        return order[: self.steps_per_epoch * self.batch_size]

    def batches(self, first_step: int = 0) -> Iterator[list[Batch]]:
        """Each optimizer step's micro-batches, from a global step on."""
        parts = self._stream(self._chunks(first_step))
        for step in count(first_step):
            epoch, within = divmod(step, self.steps_per_epoch)
            if within == 0:
                self._digest_order(epoch)
            yield list(islice(parts, len(self.shares)))

    def _chunks(self, first_step: int) -> Iterator[Chunk]:
        """Indices of the micro-batches, an epoch at a time."""
        first_epoch, skipped = divmod(first_step, self.steps_per_epoch)
        for epoch in count(first_epoch):
            steps = self._parts(self.order(epoch)[skipped * self.batch_size :])
            yield epoch, [part for step in steps for part in step]
            skipped = 0

    def _digest_order(self, epoch: int) -> None:
        if epoch == self._num_digested:  # a run that goes on in the middle of an epoch has it already
            self._digest = hashlib.sha256(self._digest + self.order(epoch).numpy().tobytes()).digest()
            self._num_digested += 1

    def state_dict(self) -> dict[str, Any]:
        """The fingerprint of the order so far; the order itself follows from the seed."""
        return {"digest": self._digest.hex(), "num_digested": self._num_digested}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what :meth:`state_dict` gave."""
        self._digest, self._num_digested = bytes.fromhex(state["digest"]), state["num_digested"]

    def first_part(self) -> Batch:
        """The first micro-batch of the run, drawn apart from :meth:`batches`."""
        return next(self.first_parts(1))

    def last_part(self) -> Batch:
        """The last micro-batch of the first epoch, drawn apart from :meth:`batches`."""
        return next(self._apart([(0, [self._own(self.order(0)[-self._part_size :])])]))

    def first_parts(self, num_steps: int) -> Iterator[Batch]:
        """The micro-batches of the run's first steps, drawn apart from :meth:`batches`."""
        order = self.order(0)[: num_steps * self.batch_size]
        return self._apart([(0, [part for step in self._parts(order) for part in step])])

    def digest(self) -> str:
        """A fingerprint of the order so far and of the first micro-batch's content."""
        return hashlib.sha256(self._digest + self._first_content).hexdigest()[:16]


def validation_batches(
    task: Task, batch_size: int, device: torch.device, dtype: torch.dtype | None, team: Team = ALONE
) -> Callable[[], Iterator[Batch]]:
    """Passes over the validation set in its own order, the last batch as small as it comes.

    Args:
        task: its validation set and ``collate``.
        batch_size: examples of a batch.
        device: where batches are wanted.
        dtype: of their floating-point tensors; ``None`` leaves them.
        team: whose workers each take a stretch of it, in the order of their ranks.

    Raises:
        ValueError: a worker would have no example.
    """
    own_seed = 0 if task.num_workers else None
    stream = streamer(task.val_set, task.collate, device, dtype, own_seed, task.num_workers)
    num_items = len(task.val_set)  # type: ignore[arg-type]
    if num_items < team.size:
        raise ValueError(f"val_set must hold an example for each of {team.size} workers, got {num_items}")
    own = torch.arange(num_items).tensor_split(team.size)
    # As many for each worker, since those that share a model compute together.
    parts = own[team.rank].tensor_split(-(-len(own[0]) // batch_size)) if team.size > 1 else own[0].split(batch_size)
    return lambda: stream([(0, parts)])


def streamer(
    data: Dataset[Any],
    collate: Callable[[list[Any]], Batch] | None,
    device: torch.device,
    dtype: torch.dtype | None,
    seed: int | None = None,
    num_workers: int = 0,
) -> Stream:
    """Index tensors -> batches: tensors in memory are gathered directly, all else goes through ``DataLoader``.

    Args:
        data: a map-style data set.
        collate: as ``DataLoader``'s ``collate_fn``.
        device: where batches are wanted.
        dtype: of their floating-point inputs; ``None`` leaves them.
        seed: of what items draw at random, each by its own; ``None`` lets them draw from the process's generators.
        num_workers: processes that draw ahead, given a seed; tensors in memory need none.
    """
    if isinstance(data, TensorDataset) and collate is None:
        return _gatherer(data.tensors, device, dtype)
    if seed is not None:
        return fetcher(Seeded(data, collate, seed), num_workers, device, dtype)

    def load(chunks: Iterable[Chunk]) -> Iterator[Batch]:
        loader = DataLoader(
            data,
            batch_sampler=(part.tolist() for _, parts in chunks for part in parts),
            collate_fn=collate,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else each pass draws from the generator that dropout uses
        )
        return (to_device(batch, device, dtype) for batch in loader)

    return load


def _gatherer(tensors: tuple[torch.Tensor, ...], device: torch.device, dtype: torch.dtype | None) -> Stream:
    if sum(t.nbytes for t in tensors) <= RESIDENT_BYTES:
        tensors = to_device(tensors, device, dtype)
    home = tensors[0].device

    def gather(chunks: Iterable[Chunk]) -> Iterator[Batch]:
        for _, parts in chunks:
            # All indices travel at once: a copy from pageable memory waits for the device.
            for indices in torch.split(torch.cat(list(parts)).to(home), [len(part) for part in parts]):
                picked = tuple(tensor[indices] for tensor in tensors)
                batch = picked if len(picked) > 1 else picked[0]
                yield batch if home == device else to_device(batch, device, dtype)

    return gather


def _hash_batch(batch: Batch, content: Any) -> None:
    if isinstance(batch, torch.Tensor):
        content.update(batch.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(batch, dict):
        for value in batch.values():
            _hash_batch(value, content)
    elif isinstance(batch, tuple | list):
        for value in batch:
            _hash_batch(value, content)
