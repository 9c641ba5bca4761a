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

from trainables.effective import observe
from trainables.loop import Loop
from trainables.memory import ArmMemory, activation_bytes, is_out_of_memory, peak_memory_bytes
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


def test_batch_normalisation_counts_its_statistics_once() -> None:
    """Saved: inputs (4, 8), the layer's output (4, 16), mean and deviation of the batch, and what feeds the last layer.

    The running statistics are saved, too, but they are buffers, which are counted as such.
    """
    model, inputs = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 2)), torch.randn(4, 8)
    with activation_bytes(model) as saved:
        model(inputs)
        assert saved() == 4 * (4 * 8 + 4 * 16 + 2 * 16 + 4 * 16)


LOSS = 4 * 4 * 2 + 8 * 4 + 4
"""Saved by cross-entropy of 4 examples and 2 classes in FP32: log-probabilities, labels, a scalar of total weight."""


@pytest.mark.parametrize(
    ("frozen", "parameters", "activations"),
    [
        # The input, ReLU's output and the last layer's weight, cast; the first layer's input has no gradient.
        ((), 178, 2 * (4 * 8 + 4 * 16 + 16 * 2)),
        ((0,), 34, 2 * 4 * 16),  # nothing flows back through the last layer, so its weight is not kept
        ((2,), 144, 2 * (4 * 8 + 4 * 16 + 16 * 2)),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 4])
def test_bf16_frozen_layers_and_accumulation_by_hand(
    tiny_task: Callable[..., Task],
    make_loop: Callable[..., Loop],
    frozen: tuple[int, ...],
    parameters: int,
    activations: int,
    accumulate: int,
) -> None:
    """178 parameters in FP32, of which some train; micro-batches are of 4 examples whatever the batch."""
    model = two_layers()
    for index in frozen:
        model[index].requires_grad_(False)
    task = tiny_task(model=model)
    loop = make_loop(task, "bf16-mixed", batch_size=4 * accumulate, accumulate_steps=accumulate, optimizer="sgd")
    found = observe(loop).activations
    assert found == activations + LOSS
    loop.train(1)
    gradients = momentum = parameters
    assert peak_memory_bytes(loop.model, loop.optimizer, found, CPU) == 4 * (178 + gradients + momentum) + found


def test_an_arms_peak_on_a_gpu_is_without_the_other_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's counters are mocked: this machine has none."""
    now, peak = {"allocated": 700, "reserved": 1000}, {"allocated": 5000, "reserved": 6000}

    def empty_cache() -> None:
        now["reserved"] = -(-now["allocated"] // 100) * 100  # whole blocks remain

    def use(allocated: int) -> None:
        now["allocated"] += allocated
        now["reserved"] = max(now["reserved"], -(-now["allocated"] // 100) * 100)
        peak.update({name: max(peak[name], now[name]) for name in now})

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: peak.update(now))
    for name in now:
        monkeypatch.setattr(torch.cuda, f"memory_{name}", lambda _, name=name: now[name])
        monkeypatch.setattr(torch.cuda, f"max_memory_{name}", lambda _, name=name: peak[name])
    memory = ArmMemory(torch.device("cuda"))
    use(200)  # its weights
    use(900)  # looking at it
    use(-900)
    memory.restart()
    use(350)  # a step
    use(-350)
    model = two_layers()
    assert memory.read(model, torch.optim.SGD(model.parameters()), 12345) == (550, 600)
    assert ArmMemory(CPU).read(model, torch.optim.SGD(model.parameters()), 12345) == (2 * 4 * 178 + 12345, None)


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


def faults_of_10_steps(prepare: str, num_large: int) -> tuple[int, int]:
    """Page faults of a process that allocates and frees 2 x 40 MB 10 times; and its bytes after a trial of that many
    tensors of 400 MB."""
    program = f"""
import resource, torch
from trainables.memory import _resident_bytes, keep_freed_memory, release_memory
{prepare}
def step():
    return float((torch.ones(10_000_000) + 1).sum())
for _ in range({SETTLED}):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
large = [torch.ones(100_000_000) for _ in range({num_large})]
del large
release_memory(torch.device("cpu"))
print(faults, _resident_bytes())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    faults, resident = map(int, done.stdout.split())
    return faults, resident


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_is_used_again_and_given_back_after_a_large_trial() -> None:
    faults, resident = faults_of_10_steps("assert keep_freed_memory()", num_large=6)
    assert resident < 1 << 30  # of the 2.4 GB nothing stays
    assert 10 * faults < faults_of_10_steps("", num_large=0)[0]  # glibc maps what is larger than 32 MB anew each time
