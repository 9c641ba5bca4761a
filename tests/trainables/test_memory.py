"""Bytes counted by hand, and errors that say that memory ran out."""

import ctypes
import gc
import subprocess
import sys
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from trainables.loop import Loop
from trainables.memory import activation_bytes, is_out_of_memory, peak_memory_bytes
from trainables.task import Task

CPU = torch.device("cpu")


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def test_activations_of_two_layers_by_hand() -> None:
    """Saved: the input (4, 8) and ReLU's output (4, 16), which the second layer shares; no parameters."""
    model, inputs = two_layers(), torch.randn(4, 8)
    with activation_bytes(model) as saved:
        assert saved() == 0
        outputs = model(inputs)
        assert saved() == 4 * (4 * 8 + 4 * 16)
    with activation_bytes(model) as saved:
        nn.functional.cross_entropy(outputs, torch.zeros(4, dtype=torch.int64))
        # The log-probabilities (4, 2), the labels and a scalar of the total weight.
        assert saved() == 4 * 4 * 2 + 8 * 4 + 4


def test_counting_keeps_nothing_alive() -> None:
    """A saved output that its own graph holds would never be freed."""
    references = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            references.append(weakref.ref(ctx))
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    with activation_bytes(two_layers()):
        outputs = Watched.apply(torch.randn(4, requires_grad=True)).exp()  # exp saves its own output
    del outputs
    gc.collect()
    assert references[0]() is None


@pytest.mark.parametrize(("optimizer", "copies"), [("adamw", 2), ("sgd", 1)])
def test_the_peak_counts_parameters_gradients_state_buffers_and_activations(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], optimizer: str, copies: int
) -> None:
    model = two_layers()
    model.register_buffer("table", torch.zeros(100))
    model[0].requires_grad_(False)
    loop = make_loop(tiny_task(model=model), optimizer=optimizer)
    loop.train(1)
    frozen, trained, counters = 8 * 16 + 16, 16 * 2 + 2, 2 if optimizer == "adamw" else 0
    expected = 4 * (frozen + (2 + copies) * trained + 100 + counters) + 12345
    assert peak_memory_bytes(loop.model, loop.optimizer, 12345, CPU) == expected


def raised(function: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as found:  # noqa: PT011 - which one is what is tested
        function()
    return found.value


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (raised(lambda: torch.empty(2**46)), True),
        (raised(lambda: np.ones(2**52)), True),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (raised(lambda: torch.ones(2) @ torch.ones(3)), False),
    ],
)
def test_errors_of_memory_are_told(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


SETTLED = 10
"""Steps after which the heap no longer grows: what lies between large tensors makes it grow in the first few."""


def faults_of_20_steps(prepare: str) -> tuple[int, int]:
    """Page faults of a process that allocates and frees 2 x 40 MB 20 times, and its bytes after a large trial."""
    program = f"""
import resource, torch
from trainables.memory import _resident_bytes, keep_freed_memory, release_memory
{prepare}
def step():
    return float((torch.ones(10_000_000) + 1).sum())
for _ in range({SETTLED}):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
large = [torch.ones(100_000_000) for _ in range(6)]
del large
release_memory(torch.device("cpu"))
print(faults, _resident_bytes())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    faults, resident = map(int, done.stdout.split())
    return faults, resident


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_is_used_again_and_given_back_after_a_large_trial() -> None:
    faults, resident = faults_of_20_steps("assert keep_freed_memory()")
    assert resident < 1 << 30  # of the 2.4 GB nothing stays
    assert 10 * faults < faults_of_20_steps("")[0]  # glibc maps what is larger than 32 MB anew each time
