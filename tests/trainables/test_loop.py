"""The loop against loops written by hand, and what it promises about schedules, skipped steps and waiting."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import TensorDataset

from trainables.ladder import LADDER
from trainables.loop import Loop
from trainables.precision import numerics
from trainables.tally import Tally
from trainables.task import Batch, Task

CPU = torch.device("cpu")

OPTIMIZERS = {
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.01, fused=True),
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr, weight_decay=0.01, fused=True),
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr, weight_decay=0.01, momentum=0.9),
}


def batches_by_hand(data: TensorDataset, batch_size: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    epoch = 0
    while True:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        for start in range(0, len(data) - batch_size + 1, batch_size):
            yield tuple(t[order[start : start + batch_size]] for t in data.tensors)
        epoch += 1


def train_by_hand(
    task: Task,
    num_steps: int,
    dtype: torch.dtype | None = None,
    scaled: bool = False,
    optimizer: str = "adamw",
    lr: float = 1e-3,
    max_norm: float | None = None,
    accumulate: int = 1,
) -> list[float]:
    """A plain loop as PyTorch's documentation writes it; the losses of the applied steps."""
    model, batches = task.model, batches_by_hand(task.train_set, 64, seed=0)
    optimizer = OPTIMIZERS[optimizer](model.parameters(), lr)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    losses = []
    for _ in range(num_steps):
        inputs, labels = next(batches)
        scale = scaler.get_scale()
        total = 0.0
        for x, y in zip(inputs.chunk(accumulate), labels.chunk(accumulate), strict=True):
            with torch.autocast("cpu", dtype=dtype) if dtype else nullcontext():
                outputs = model(x)
                loss = cross_entropy(outputs.float(), y) / accumulate
            scaler.scale(loss).backward()
            total += loss.item()
        if max_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        scaler.step(optimizer)
        scaler.update()
        if not scaled or scaler.get_scale() >= scale:
            losses.append(total)
        optimizer.zero_grad()
    return losses


def losses_of(loop: Loop, num_steps: int) -> list[float]:
    found = []
    for _ in range(num_steps):
        tally = Tally(CPU)
        loop.train_step(tally)
        found.append(tally.read().loss_sum)
    return found


def assert_same_weights(left: nn.Module, right: nn.Module) -> None:
    for (name, a), b in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("precision", "dtype", "options"),
    [
        ("fp32", None, {}),
        ("fp32", None, {"optimizer": "sgd"}),
        ("fp32", None, {"optimizer": "adam"}),
        ("fp32", None, {"max_norm": 0.5}),
        ("fp32", None, {"accumulate": 4}),
        ("bf16-mixed", torch.bfloat16, {}),
        ("bf16-mixed", torch.bfloat16, {"max_norm": 0.5, "accumulate": 2}),
    ],
)
def test_40_steps_equal_a_loop_written_by_hand(
    digits_task: Callable[[], Task],
    make_loop: Callable[..., Loop],
    precision: str,
    dtype: torch.dtype | None,
    options: dict[str, Any],
) -> None:
    by_hand = digits_task()
    with numerics(LADDER["fp32"]):
        expected = train_by_hand(by_hand, 40, dtype, **options)
    hyper = {"max_grad_norm": options.get("max_norm"), "accumulate_steps": options.get("accumulate", 1)}
    loop = make_loop(digits_task(), precision, weight_decay=0.01, optimizer=options.get("optimizer", "adamw"), **hyper)
    loop.model.train()
    if options.get("accumulate", 1) == 1:
        assert losses_of(loop, 40) == expected
    else:  # the sum of the parts' losses is made in FP32 by the loop, in Python by hand
        assert losses_of(loop, 40) == pytest.approx(expected, rel=1e-6)
    assert_same_weights(loop.model, by_hand.model)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_fp16_mixed_equals_a_scaled_loop_written_by_hand(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], optimizer: str, max_norm: float | None
) -> None:
    """Clipping to 0.05 tells whether gradients are unscaled before: their scale is 65536."""
    by_hand = tiny_task()
    expected = train_by_hand(by_hand, 20, torch.float16, scaled=True, optimizer=optimizer, max_norm=max_norm)
    loop = make_loop(tiny_task(), "fp16-mixed", weight_decay=0.01, optimizer=optimizer, max_grad_norm=max_norm)
    assert [loss for loss in losses_of(loop, 20) if loss != 0.0] == expected
    assert len(expected) == 20
    assert_same_weights(loop.model, by_hand.model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_16_bits_throughout_equal_a_loop_on_a_model_of_16_bits(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], optimizer: str, dtype: torch.dtype
) -> None:
    """PyTorch's fused SGD does not move BF16 parameters on the CPU."""
    by_hand = tiny_task(dtype)
    expected = train_by_hand(by_hand, 20, optimizer=optimizer, lr=0.1)
    precision = "bf16-true" if dtype is torch.bfloat16 else "fp16-true"
    loop = make_loop(tiny_task(), precision, weight_decay=0.01, optimizer=optimizer, learning_rate=0.1)
    if dtype is torch.bfloat16:  # AdamW's second moments of small gradients vanish in FP16
        assert expected[-1] < 0.8 * expected[0]
    assert {p.dtype for p in loop.model.parameters()} == {dtype}
    assert losses_of(loop, 20) == expected
    assert_same_weights(loop.model, by_hand.model)
    state = [v for s in loop.optimizer.state.values() for name, v in s.items() if name != "step"]
    assert len(state) == (4 if optimizer == "sgd" else 8)
    assert {v.dtype for v in state} == {dtype}


def squared_error(outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
    return (outputs[:, 0] - batch[1]).pow(2).mean()


@pytest.mark.parametrize(("num_items", "batch_size"), [(64, 16), (10, 16)])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_4_micro_batches_equal_1_batch(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], num_items: int, batch_size: int, optimizer: str
) -> None:
    """In FP64, so that nothing but the arithmetic remains; 10 items come in parts of 3, 3, 3 and 1."""
    models, losses = [], []
    for parts in (1, 4):
        task = tiny_task(torch.float64, num_items, loss=squared_error)
        loop = make_loop(task, batch_size=batch_size, accumulate_steps=parts, optimizer=optimizer, max_grad_norm=1.0)
        losses.append(losses_of(loop, 12))
        models.append(loop.model)
        assert {p.dtype for p in loop.model.parameters()} == {torch.float64}
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)  # the sum is kept in FP32
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


class Overflowing:
    """Cross-entropy whose gradients overflow under a loss scale at chosen calls."""

    def __init__(self, at: set[int]) -> None:
        self.at, self.calls = at, 0

    def __call__(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        loss = cross_entropy(outputs.float(), batch[1])
        if self.calls in self.at:
            loss = loss * 1e38
        self.calls += 1
        return loss


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("at", [set(), {0}, {0, 1, 5}, {2, 9}])
def test_skipped_steps_leave_weights_and_schedule_where_they_were(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], optimizer: str, at: set[int]
) -> None:
    """The schedule is worked by hand: linear over 10 steps, by applied steps."""
    loop = make_loop(
        tiny_task(loss=Overflowing(at)),
        "fp16-mixed",
        num_steps=10,
        lr_schedule="linear",
        learning_rate=0.5,
        optimizer=optimizer,
    )
    applied = 0
    for step in range(10):
        before = copy.deepcopy(loop.model.state_dict())
        progress = loop.train(1)
        assert progress.learning_rate == pytest.approx(0.5 * (1 - applied / 10), rel=1e-6)
        moved = any(not torch.equal(before[name], value) for name, value in loop.model.state_dict().items())
        assert moved is (step not in at)
        assert math.isnan(progress.train_loss) is (step in at)
        applied += step not in at
        assert progress.applied_steps == applied
    assert progress.loss_scale == 65536 / 2 ** len(at)


def test_momentum_after_a_skipped_first_step_is_that_of_a_first_step(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop]
) -> None:
    """PyTorch's fused SGD reserves the momentum in the first step and, where that is skipped, never writes it.

    So the optimizer must not be that one; uninitialised memory is made to hold rubbish here.
    """
    for _ in range(20):
        rubbish = [torch.full((n,), 7.0) for n in (128, 16, 32, 2)]
    del rubbish
    loop = make_loop(tiny_task(loss=Overflowing({0})), "fp16-mixed", optimizer="sgd", batch_size=64)
    loop.train(1)
    before = copy.deepcopy(loop.model)
    loop.train(1)
    batch = next(batches_by_hand(loop.task.train_set, 64, 0))
    cross_entropy(before(batch[0]), batch[1]).backward()
    for old, new in zip(before.parameters(), loop.model.parameters(), strict=True):
        torch.testing.assert_close(new, old - 1e-3 * old.grad, rtol=1e-5, atol=1e-5)


def test_fp32_steps_follow_the_schedule(tiny_task: Callable[..., Task], make_loop: Callable[..., Loop]) -> None:
    hyper = {"lr_schedule": "cosine", "warmup_frac": 0.2, "learning_rate": 0.1}
    loop = make_loop(tiny_task(), num_steps=10, **hyper)
    found = [loop.train(1).learning_rate for _ in range(10)]
    by_hand = [0.05, 0.1] + [0.05 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    assert found == pytest.approx(by_hand)


@pytest.mark.parametrize("precision", ["fp32", "fp16-mixed"])
def test_parameter_groups_keep_their_ratio(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], precision: str
) -> None:
    def groups(model: nn.Module) -> list[dict[str, Any]]:
        first, _, last = model
        return [{"params": list(first.parameters()), "lr": 0.01}, {"params": list(last.parameters())}]

    task = tiny_task(param_groups=groups)
    loop = make_loop(task, precision, num_steps=8, lr_schedule="linear", warmup_frac=0.25, learning_rate=0.1)
    factors = [0.5, 1.0] + [1 - i / 6 for i in range(6)]
    for factor in factors:
        loop.train(1)
        rates = [float(group["lr"]) for group in loop.optimizer.param_groups]
        assert rates == pytest.approx([0.01 * factor, 0.1 * factor], rel=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "fp16-mixed"])
@pytest.mark.parametrize("max_grad_norm", [None, 1e-3])
def test_the_gradient_norm_is_that_before_clipping_and_without_the_scale(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], precision: str, max_grad_norm: float | None
) -> None:
    loop = make_loop(tiny_task(), precision, batch_size=64, max_grad_norm=max_grad_norm)
    twin = copy.deepcopy(loop.model)
    found = loop.train(1).grad_norm
    inputs, labels = next(batches_by_hand(loop.task.train_set, 64, 0))
    cross_entropy(twin(inputs), labels).backward()
    norm = math.sqrt(sum(float(p.grad.double().pow(2).sum()) for p in twin.parameters()))
    assert found == pytest.approx(norm, rel=1e-5 if precision == "fp32" else 2e-2)


def test_the_mean_loss_leaves_skipped_steps_out(tiny_task: Callable[..., Task], make_loop: Callable[..., Loop]) -> None:
    apart = make_loop(tiny_task(loss=Overflowing({1})), "fp16-mixed")
    losses = [apart.train(1).train_loss for _ in range(4)]
    together = make_loop(tiny_task(loss=Overflowing({1})), "fp16-mixed")
    expected = (losses[0] + losses[2] + losses[3]) / 3
    assert together.train(4).train_loss == pytest.approx(expected, rel=1e-6)


class Waits(TorchDispatchMode):
    """Counts the reads of a tensor's value, each of which waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "fp16-mixed", "bf16-true"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("hyper", [{}, {"lr_schedule": "cosine", "max_grad_norm": 1.0, "accumulate_steps": 2}])
def test_a_step_does_not_wait_for_the_device(
    tiny_task: Callable[..., Task],
    make_loop: Callable[..., Loop],
    precision: str,
    optimizer: str,
    hyper: dict[str, Any],
) -> None:
    loop = make_loop(tiny_task(), precision, num_steps=10, batch_size=16, optimizer=optimizer, **hyper)
    tally = Tally(CPU)
    loop.train_step(tally)  # the first step makes the optimizer's state and the scale
    with Waits() as waits:
        for step in range(3):
            loop.train_step(tally, want_norm=step == 2)
    if precision == "fp16-mixed" and optimizer == "sgd":
        assert waits.count > 0  # SGD is not fused, so the scaler asks whether to step
        return
    assert waits.count == 0
    with Waits() as waits:
        torch.ones(()).item()
    assert waits.count == 1


def test_an_interval_waits_as_often_however_long_it_is(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop]
) -> None:
    loop = make_loop(tiny_task(), "fp16-mixed", num_steps=30, lr_schedule="linear", batch_size=16)
    loop.train(1)
    counts = []
    for num_steps in (1, 9):
        with Waits() as waits:
            loop.train(num_steps)
        counts.append(waits.count)
    assert counts[0] == counts[1]


def test_a_model_without_trainable_parameters_says_so(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop]
) -> None:
    frozen = nn.Linear(8, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="at least one parameter that requires a gradient"):
        make_loop(tiny_task(model=frozen))


def test_frozen_parameters_stay(tiny_task: Callable[..., Task], make_loop: Callable[..., Loop]) -> None:
    task = tiny_task()
    task.model[0].requires_grad_(False)
    before = task.model[0].weight.clone()
    loop = make_loop(task, weight_decay=0.5)
    loop.train(3)
    assert torch.equal(loop.model[0].weight, before)


def test_a_loop_says_how_much_of_a_model_trains_where_it_is_not_all(tiny_task, make_loop):
    whole = tiny_task()
    part = tiny_task(remarks=("of the task",))
    part.model[0].requires_grad_(False)
    assert make_loop(whole).remarks == ()
    assert make_loop(part).remarks == ("of the task", "trains 34 of 178 parameters (19.10%)")
