"""The workers of one trial: processes that run the same trial in lockstep, and agree on all in which they could differ.

Whatever depends on a clock, a file or a share of the data is decided by the first worker or from what all of them have
seen. A team of one decides by itself and costs nothing.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from trainables.loading import describe
from trainables.meeting import Meeting, WorkerLost
from trainables.text import one_line

_T = TypeVar("_T")

TIMEOUT = timedelta(minutes=30)
"""How long workers wait for each other: one may write a large checkpoint while the others do nothing."""


class WorkerFailed(RuntimeError):
    """Another worker of the trial failed, and this one could not go on without it."""


class Team:
    """What the workers of a trial say to each other; without a store, a team of one.

    All of them have to call the same methods in the same order. ``rank`` counts from 0, ``size`` is their number.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank, self.size, self._store = rank, size, store

    @property
    def is_first(self) -> bool:
        """Whether this worker is the one that writes and reports."""
        return self.rank == 0

    def agree(self, value: _T) -> _T:
        """The first worker's value."""
        if self.size == 1:
            return value
        values = [value if self.is_first else None]
        torch.distributed.broadcast_object_list(values)
        return values[0]  # type: ignore[return-value]

    def gather(self, value: _T) -> list[_T]:
        """The values of all workers, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def first(self, value: _T | None) -> _T | None:
        """The value of the first worker that has one."""
        return next((found for found in self.gather(value) if found is not None), None)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of the workers' tensors of one shape."""
        if self.size > 1:
            values = values.clone()
            torch.distributed.all_reduce(values)
            values = values / self.size
        return values

    def spread(self, tensors: Iterable[torch.Tensor]) -> None:
        """Gives all workers the first one's tensors, in place."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.detach(), 0)

    def seed(self, seed: int, step: int = 0) -> int:
        """A worker's own seed; the first has that of a trial of one.

        Args:
            seed: of the trial.
            step: at which generators are seeded anew.
        """
        if self.is_first:
            return seed
        digest = hashlib.sha256(f"{seed} {self.rank} {step}".encode()).digest()
        return int.from_bytes(digest[:4])

    def cause(self, error: BaseException) -> BaseException | None:
        """What has to be raised in place of an error: another worker's failure, where that brought it about.

        The first to fail tells the others, before they can miss it. ``None`` where the failure is this worker's own.

        Args:
            error: that ends this worker's part.
        """
        told = None
        with suppress(torch.distributed.DistError):  # the store is gone with the first worker
            if not _is_of_communication(error):
                self._store.compare_set("failure", "", f"worker {self.rank + 1} of {self.size}: {describe(error)}")
                return None
            told = self._store.get("failure").decode() if self._store.check(["failure"]) else None
        if told is not None:
            return WorkerFailed(told)
        noticed = f"worker {self.rank + 1} noticed: {one_line(str(error))}"
        return WorkerLost(f"one of {self.size} workers went away, {noticed}")


ALONE = Team()
"""The team of a trial of one worker."""


def _is_of_communication(error: BaseException) -> bool:
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def open_store(host: str) -> Any:
    """The place where the workers of a trial meet; its ``port`` is free, and is given back when it is dropped.

    Args:
        host: of this process, as the others reach it.
    """
    return TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=TIMEOUT)


@contextmanager
def meet(meeting: Meeting | None, device: torch.device) -> Iterator[Team]:
    """Waits until all workers are there, and leaves nothing behind.

    Args:
        meeting: of this worker; ``None`` for a trial of one.
        device: where it trains.

    Raises:
        WorkerFailed: this one could not go on because another one failed, for the reason that it gives.
        WorkerLost: this one could not go on because another one went away.
    """
    if meeting is None:
        yield ALONE
        return
    dist = torch.distributed
    client = TCPStore(meeting.host, meeting.port, is_master=False, timeout=TIMEOUT)
    store = PrefixStore(meeting.name, client)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=meeting.rank, world_size=meeting.size, timeout=TIMEOUT)
    team = Team(meeting.rank, meeting.size, store)
    try:
        yield team
    except (Exception, SystemExit) as error:
        cause = team.cause(error)
        if cause is not None:
            raise cause from None
        raise
    finally:
        dist.destroy_process_group()


class Alarm:
    """Rings when a time has come: for all workers at the same call, by the clock of the first.

    Args:
        team: all of whose workers ask equally often.
        after_s: seconds until it rings.
    """

    def __init__(self, team: Team, after_s: float) -> None:
        self._team = team
        self._calls = self._left = 1
        self._asked_s = time.monotonic()
        self.set(after_s)

    def set(self, after_s: float) -> None:
        """Has it ring that many seconds from now."""
        self._at_s = time.monotonic() + after_s

    @property
    def is_due(self) -> bool:
        """Whether the time has come. The workers of a team confer over it ever more often as it comes near."""
        if self._team.size == 1:
            return time.monotonic() >= self._at_s
        self._left -= 1
        return self._left <= 0 and self._confer()

    def _confer(self) -> bool:
        now = time.monotonic()
        call_s, left_s = (now - self._asked_s) / self._calls, self._at_s - now
        calls = min(2 * self._calls, int(left_s / 2 / call_s) if call_s > 0 else 1)
        is_due, self._calls = self._team.agree((left_s <= 0, max(1, calls)))
        self._left, self._asked_s = self._calls, now
        return is_due
