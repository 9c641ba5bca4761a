"""Memory of a training run: the device's own peak on CUDA, a portable count of bytes on the CPU."""

import ctypes
import functools
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from trainables.sharded import gathered_bytes, held, is_of_parameter, is_sharded


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that host or device memory ran out (the CPU's allocator raises a plain RuntimeError)."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


@functools.cache
def settle_process() -> None:
    """Readies a process that is to run trials and nothing else, once.

    The garbage collector need not walk all of PyTorch's objects (80 ms) after every trial; what is imported by now
    stays for good.
    """
    keep_freed_memory()
    gc.collect()
    gc.freeze()


def keep_freed_memory() -> bool:
    """Has the C library keep what is freed for the next allocation; False where it is not glibc.

    By default glibc gives tensors of some megabytes back to the system as soon as they are freed, and every step
    faults their pages in anew.

    Source:
        mallopt(3); PyTorch's performance tuning guide has the same from jemalloc and tcmalloc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(parameter, _INT_MAX) == 1 for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD)
    )


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_INT_MAX = 2**31 - 1


def _give_back_freed() -> None:
    """What a large trial needed is not kept from the others of its node."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None and _resident_bytes() > _KEEP_BYTES:
        trim(0)


_KEEP_BYTES = 2 << 30
"""A process of this size or less keeps what it freed from one trial to the next."""


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def release_memory(device: torch.device) -> None:
    """Gives back what a finished trial left behind in this process."""
    gc.collect()
    _give_back_freed()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # pragma: gpu
        torch.cuda.reset_peak_memory_stats(device)  # pragma: gpu


@contextmanager
def activation_bytes(model: nn.Module) -> Iterator[Callable[[], int]]:
    """Counts the bytes that autograd saves for backward inside the ``with``, without the model's own tensors.

    What autocast casts counts where it is saved, in its short format: a copy of each weight whose input needs a
    gradient. Copies that it merely keeps until it ends are gone before gradients, which are larger, take their place.

    Yields:
        a function that returns the bytes of the distinct storages saved so far.
    """
    tensors = (*model.parameters(), *model.buffers())  # batch normalisation saves its running statistics, too
    own = {held(tensor).untyped_storage().data_ptr() for tensor in tensors}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and not is_of_parameter(tensor):  # gathered parameters have other storages
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would keep the graph that saves it alive

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(saved.values())


def peak_memory_bytes(
    model: nn.Module, optimizer: torch.optim.Optimizer, activations: int, device: torch.device
) -> int:
    """The peak of a training step.

    Args:
        model: its parameters count twice, once for their gradients; where they are shared out over workers, a worker's
            share, and what it has of others' while it computes.
        optimizer: its state counts.
        activations: bytes saved for backward, as :func:`activation_bytes` counts them.
        device: on CUDA the allocator's own peak since the trial began is returned instead.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    parameters = sum(held(p).nbytes * (2 if p.requires_grad else 1) for p in model.parameters())
    if any(map(is_sharded, model.parameters())):
        parameters += gathered_bytes(model)
    buffers = sum(b.nbytes for b in model.buffers())
    state = sum(held(v).nbytes for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor))
    return parameters + buffers + state + activations


def peak_reserved_bytes(device: torch.device) -> int | None:
    """Most bytes that PyTorch held of a GPU since the trial began, in use or cached; ``None`` on the CPU."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None


class ArmMemory:
    """The peak of one arm among several on a device: what the others hold there while it steps is not its own.

    Args:
        device: where the arm is about to be built.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._allocated = self._reserved = 0
        if device.type == "cuda":
            torch.cuda.empty_cache()  # else the arm would fill blocks that others freed, and seem to reserve less
            self._allocated = torch.cuda.memory_allocated(device)
            self._reserved = torch.cuda.memory_reserved(device)

    def restart(self) -> None:
        """Forgets the peak so far: building and observing are no training step."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)

    def read(self, model: nn.Module, optimizer: torch.optim.Optimizer, activations: int) -> tuple[int, int | None]:
        """(peak, reserved) bytes of the arm's own since :meth:`restart`; arguments as :func:`peak_memory_bytes`."""
        reserved = peak_reserved_bytes(self._device)
        peak = peak_memory_bytes(model, optimizer, activations, self._device) - self._allocated
        return peak, None if reserved is None else reserved - self._reserved
