"""FP8 layers by torchao: which layers, what they compute in, and what stays as it was.

PyTorch multiplies FP8 on CPUs too, slowly, so that all of it but the compilation is real here.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from trainables.effective import observe
from trainables.float8 import is_convertible, to_float8
from trainables.ladder import LADDER
from trainables.loop import Loop
from trainables.task import Task

FP8 = ("fp8-tensorwise", "fp8-rowwise")


class Other(nn.Linear):
    """Computes something else than a linear layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).abs()


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Linear(128, 256), True),
        (nn.Linear(144, 128, bias=False), True),
        (nn.Linear(136, 128), False),
        (nn.Linear(128, 136), False),
        (nn.Linear(112, 1024), False),
        (nn.Linear(1024, 112), False),
        (Other(128, 128), False),
        (nn.Conv2d(128, 128, 1), False),
    ],
)
def test_layers_of_units_of_16_that_are_not_small_are_converted(layer: nn.Module, expected: bool) -> None:
    assert is_convertible(layer) is expected


def make_task(hidden: int = 256, model: Callable[[], nn.Module] | None = None) -> Task:
    """Rows (128,) and two classes, in batches of any size; the last layer is too small for FP8."""
    torch.manual_seed(0)
    inputs = torch.randn(40, 128)
    data = TensorDataset(inputs, (inputs.sum(1) > 0).long())
    layers = nn.Sequential(nn.Linear(128, hidden), nn.ReLU(), nn.Linear(hidden, 128), nn.ReLU(), nn.Linear(128, 2))
    return Task(model() if model else layers, data, data)


@pytest.mark.parametrize("precision", FP8)
def test_converted_layers_run_in_fp8_and_the_others_in_bf16(make_loop: Callable[..., Loop], precision: str) -> None:
    """FLOPs by hand: forward and the gradients of weights and inputs, with torchao those of the first layer, too."""
    found = observe(make_loop(make_task(), precision, batch_size=16))
    first, second, last = (2 * 16 * size for size in (128 * 256, 256 * 128, 128 * 2))
    ran = LADDER[precision].format
    assert found.flops == {ran: 3 * first + 3 * second, "bfloat16": 3 * last}
    assert found.effective == precision
    assert found.share == (first + second) / (first + second + last)
    other = LADDER[next(name for name in FP8 if name != precision)]
    assert found.mismatch(other) is not None


@pytest.mark.parametrize("precision", FP8)
def test_a_model_without_such_layers_is_not_called_fp8(make_loop: Callable[..., Loop], precision: str) -> None:
    found = observe(make_loop(make_task(hidden=120), precision))
    assert (found.effective, found.share) == ("bf16-mixed", 0.0)
    assert str(found.mismatch(LADDER[precision])).endswith("matrix FLOPs ran as 100% bfloat16")


@pytest.mark.parametrize("precision", FP8)
def test_emulated_fp8_is_what_it_multiplies_in(make_loop: Callable[..., Loop], precision: str) -> None:
    task = make_task()
    to_float8(task.model, LADDER[precision].scaling, emulate=True)
    found = observe(make_loop(task, precision))
    assert (found.effective, found.share) == ("fp32", 0.0)
    assert found.mismatch(LADDER[precision]) is not None


@pytest.mark.parametrize("precision", FP8)
def test_weights_keep_names_and_values_and_are_trained(make_loop: Callable[..., Loop], precision: str) -> None:
    before = {name: value.clone() for name, value in make_task().model.state_dict().items()}
    loop = make_loop(make_task(), precision, batch_size=5, learning_rate=1e-3)
    after = loop.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {p.dtype for p in loop.model.parameters()} == {torch.float32}
    losses = [loop.train(8).train_loss for _ in range(4)]
    assert losses[-1] < 0.6 * losses[0]


def test_a_model_that_is_a_linear_layer_itself_is_converted(make_loop: Callable[..., Loop]) -> None:
    loop = make_loop(make_task(model=lambda: nn.Linear(128, 128)), FP8[0])
    assert observe(loop).effective == FP8[0]
    before = loop.model.weight.clone()  # type: ignore[operator,union-attr]
    loop.train(1)
    assert not torch.equal(before, loop.model.weight)  # type: ignore[arg-type]


def test_the_loss_follows_fp32_s(make_loop: Callable[..., Loop]) -> None:
    losses: dict[str, Any] = {}
    for precision in ("fp32", *FP8):
        loop = make_loop(make_task(), precision, batch_size=8, learning_rate=1e-3)
        losses[precision] = torch.tensor([loop.train(1).train_loss for _ in range(8)])
    for precision in FP8:
        difference = (losses[precision] - losses["fp32"]).abs().max()
        assert 0 < difference < 0.02
