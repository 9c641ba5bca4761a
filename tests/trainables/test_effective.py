"""What a step really ran in: told by dispatch and canary, without disturbing what is observed."""

import copy
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from trainables import products
from trainables.canary import canary
from trainables.effective import Observation, judge, observe, observe_again
from trainables.ladder import LADDER
from trainables.loop import Loop
from trainables.precision import numerics
from trainables.products import MatrixFlops
from trainables.task import Batch, Task

CPU = torch.device("cpu")
PRECISIONS = ("fp32", "bf16-mixed", "bf16-true")


def mean_square(outputs: Any, batch: Batch) -> torch.Tensor:
    return (outputs[0] if isinstance(outputs, tuple) else outputs).float().pow(2).mean()


@pytest.fixture
def observed(make_loop: Callable[..., Loop]) -> Callable[..., Observation]:
    """Observes a model on inputs of a shape."""

    def observe_model(model: nn.Module, shape: tuple[int, ...], precision: str = "fp32") -> Observation:
        torch.manual_seed(0)
        data = TensorDataset(torch.randn(shape), torch.zeros(shape[0]))
        return observe(make_loop(Task(model, data, data, loss=mean_square), precision, batch_size=shape[0]))

    return observe_model


@pytest.mark.parametrize("precision", PRECISIONS)
def test_digits_runs_in_what_was_asked_for(
    digits_task: Callable[[], Task], make_loop: Callable[..., Loop], precision: str
) -> None:
    found = observe(make_loop(digits_task(), precision))
    assert found.effective == precision
    assert found.share == 1.0
    assert found.mismatch(LADDER[precision]) is None


def test_flops_of_two_layers_by_hand(observed: Callable[..., Observation]) -> None:
    """Forward 2 B (8 16 + 16 2); backward as much for weights, and for inputs that of the second layer alone."""
    found = observed(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), (4, 8))
    assert found.flops == {"float32": 2 * 4 * (2 * (8 * 16 + 16 * 2) + 16 * 2)}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(32, 96)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projection(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(q, k, v)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


MODELS = [
    (Attention, (4, 12, 32)),
    (SelfAttention, (4, 12, 32)),
    (lambda: nn.LSTM(32, 16, batch_first=True), (4, 12, 32)),
    (lambda: nn.LSTM(32, 16, num_layers=2, bidirectional=True), (4, 12, 32)),
    (lambda: nn.GRU(32, 16), (4, 12, 32)),
    (lambda: nn.Conv1d(4, 8, 3), (4, 4, 9)),
    (lambda: nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4), (4, 4, 7, 7)),
    (lambda: nn.Conv2d(4, 8, (1, 4), dilation=2), (4, 4, 9, 9)),
    (lambda: nn.Conv3d(2, 4, 3, padding="same"), (4, 2, 5, 5, 5)),
    (lambda: nn.ConvTranspose1d(4, 8, 3, stride=2), (4, 4, 6)),
    (lambda: nn.ConvTranspose2d(4, 8, 3, stride=2, groups=2, output_padding=1), (4, 4, 6, 6)),
]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("make", "shape"), MODELS)
def test_models_of_every_kind_run_in_what_was_asked_for(
    observed: Callable[..., Observation], make: Callable[[], nn.Module], shape: tuple[int, ...], precision: str
) -> None:
    found = observed(make(), shape, precision)
    assert found.effective == precision
    assert found.share > 0.9


def test_attention_and_recurrent_layers_are_counted(observed: Callable[..., Observation]) -> None:
    """By hand: attention has two products of 2 B H L L E, and five more of them backward; an LSTM has 4 gates."""
    projection, products = 2 * 4 * 12 * 32 * 96, 2 * 4 * 4 * 12 * 12 * 8
    assert observed(Attention(), (4, 12, 32)).flops["float32"] == 2 * projection + 7 * products
    lstm = 2 * 4 * 12 * (4 * 16 * 32 + 4 * 16 * 16)
    assert observed(nn.LSTM(32, 16), (4, 12, 32)).flops["float32"] == 3 * lstm


class InBf16(nn.Module):
    """Two layers, some of whose work is cast to BF16 whatever was asked for."""

    def __init__(self, honest: int, lying: int) -> None:
        super().__init__()
        self.honest, self.lying = nn.Linear(16, honest), nn.Linear(16, lying)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            lie = self.lying(x)
        return torch.cat([self.honest(x), lie.float()], 1)


def test_a_model_that_casts_inside_is_told_with_its_share(observed: Callable[..., Observation]) -> None:
    found = observed(InBf16(honest=16, lying=48), (8, 16))
    assert found.share == 0.25
    assert found.effective is None
    assert found.mismatch(LADDER["fp32"]) == (
        "asked for fp32, but the step's matrix FLOPs ran as 75% bfloat16, 25% float32"
    )
    found = observed(InBf16(honest=4, lying=60), (8, 16))
    assert (found.share, found.effective) == (0.0625, "bf16-mixed")


class WithoutAutocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.layer(x)


def test_a_model_that_turns_autocast_off_is_told(observed: Callable[..., Observation]) -> None:
    found = observed(WithoutAutocast(), (8, 16), "bf16-mixed")
    assert (found.share, found.effective) == (0.0, "fp32")
    assert found.mismatch(LADDER["bf16-mixed"]) == (
        "asked for bf16-mixed, but the step's matrix FLOPs ran as 100% float32"
    )


class InFloat64(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.double())


def test_a_format_without_a_name_on_the_ladder_keeps_its_own(observed: Callable[..., Observation]) -> None:
    assert observed(InFloat64(), (8, 16)).effective == "float64"


def test_a_model_without_matrix_products_is_not_judged(observed: Callable[..., Observation]) -> None:
    found = observed(nn.LayerNorm(16), (8, 16))
    assert (found.effective, found.flops) == (None, {})
    assert math.isnan(found.share)
    assert "no matrix product was seen" in str(found.mismatch(LADDER["fp32"]))


@pytest.mark.parametrize(
    ("flops", "precision", "effective", "share"),
    [
        ({"float32": 100}, "fp32", "fp32", 1.0),
        ({"tf32": 95, "float32": 5}, "fp32", "tf32", 0.05),
        ({"tf32": 95, "float32": 5}, "tf32", "tf32", 0.95),
        ({"bfloat16": 90, "float32": 10}, "bf16-mixed", "bf16-mixed", 0.9),
        ({"bfloat16": 89, "float32": 11}, "bf16-mixed", None, 0.89),
        ({"bfloat16": 100}, "bf16-true", "bf16-true", 1.0),
        ({"float32": 100}, "bf16-true", "fp32", 0.0),
        ({"float16": 100}, "bf16-true", "fp16-mixed", 0.0),
        ({"float16": 100}, "fp16-mixed", "fp16-mixed", 1.0),
        ({"float16": 100}, "fp16-true", "fp16-true", 1.0),
        ({"float8-tensorwise": 50, "bfloat16": 45, "float32": 5}, "fp8-tensorwise", "fp8-tensorwise", 0.5),
        ({"float8-tensorwise": 49, "bfloat16": 51}, "fp8-tensorwise", None, 0.49),
        ({"float8-tensorwise": 60, "bfloat16": 29, "float32": 11}, "fp8-tensorwise", None, 0.6),
        ({"float8-tensorwise": 60, "bfloat16": 40}, "fp8-rowwise", "fp8-tensorwise", 0.0),
        ({"float8-tensorwise": 60, "bfloat16": 40}, "bf16-mixed", "fp8-tensorwise", 0.4),
        ({"float8-rowwise": 30, "float8": 60, "bfloat16": 10}, "fp8-rowwise", "fp8-rowwise", 0.9),
        ({"float8-rowwise": 20, "float8-tensorwise": 20, "float8": 60}, "fp8-rowwise", None, 0.2),
        ({"float8": 100}, "fp8-rowwise", "float8", 0.0),
    ],
)
def test_a_precision_is_effective_from_90_percent_on(
    flops: dict[str, int], precision: str, effective: str | None, share: float
) -> None:
    found = judge(LADDER[precision], Counter(flops))
    assert (found.effective, found.share) == (effective, share)
    assert (found.mismatch(LADDER[precision]) is None) is (effective == precision)


def narrow_here(operation: str) -> bool:
    """Whether this CPU computes FP32 products in BF16 when it is told to, found by plain products."""
    a = torch.full((64, 64), 1 + 2**-12)
    if operation == "conv":
        product = functional.conv2d(
            a.repeat(4, 32, 1, 1), functional.pad(torch.eye(32)[:, :, None, None], (1, 1, 1, 1))
        )
    else:
        product = a @ torch.eye(64)
    return bool((product != a[0, 0]).any())


@pytest.mark.parametrize(
    ("operation", "model", "shape"),
    [
        ("matmul", lambda: nn.Linear(64, 64), (64, 64)),
        ("conv", lambda: nn.Conv2d(32, 32, 3), (4, 32, 64, 64)),
    ],
)
def test_products_that_narrow_fp32_tensors_inside_are_told(
    make_loop: Callable[..., Loop], operation: str, model: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    data = TensorDataset(torch.randn(shape), torch.zeros(shape[0]))
    loop = make_loop(Task(model(), data, data, loss=mean_square), batch_size=shape[0])
    with numerics(LADDER["fp32"]):
        torch._C._set_fp32_precision_setter("mkldnn", operation, "bf16")
        if not narrow_here(operation):
            pytest.skip("this CPU has no AMX: it computes FP32 products in FP32 even when told to narrow them")
        found = observe(loop)
    assert (found.effective, found.share) == ("bf16-mixed", 0.0)
    assert observe(loop).effective == "fp32"


def rounded(mantissa_bits: int, largest: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Rounds to a shorter mantissa and to infinity above the largest number, as a format does."""

    def cast(x: torch.Tensor) -> torch.Tensor:
        mantissa, exponent = torch.frexp(x)
        short = torch.ldexp(torch.round(mantissa * 2.0 ** (mantissa_bits + 1)), exponent - mantissa_bits - 1)
        return torch.where(short.abs() > largest, math.inf, short)

    return cast


@pytest.mark.parametrize(
    ("name", "mantissa_bits", "largest"),
    [("float32", 23, math.inf), ("tf32", 10, math.inf), ("bfloat16", 7, math.inf), ("float16", 10, 65504.0)],
)
def test_the_canary_tells_the_formats_apart(
    monkeypatch: pytest.MonkeyPatch, name: str, mantissa_bits: int, largest: float
) -> None:
    """TF32 and FP16 units are mocked: this machine has none. Operands are rounded before an FP32 product."""
    cast, product = rounded(mantissa_bits, largest), torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: product(cast(a), cast(b)))
    assert canary("matmul", (16, 32, 8), CPU) == name


def test_canaries_are_fp32_whatever_the_task_made_the_default() -> None:
    with numerics(LADDER["fp32"]):
        torch.set_default_dtype(torch.bfloat16)
        for kind, shapes in (("matmul", (4, 4, 4)), ("rnn", ((5, 2, 4), ())), ("rnn", ((9, 4), (4, 3, 2)))):
            assert canary(kind, shapes, CPU) == "float32"


class Everything(nn.Module):
    """Buffers that move with every step, dropout, and a counter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 2))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.layers(x)


def state(loop: Loop) -> list[torch.Tensor]:
    optimizer = [v for s in loop.optimizer.state.values() for v in s.values()]
    return copy.deepcopy([*loop.model.state_dict().values(), *optimizer, torch.get_rng_state()])


@pytest.mark.parametrize("precision", [*PRECISIONS, "fp16-mixed"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_observing_changes_nothing(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], precision: str, optimizer: str
) -> None:
    runs, digests = [], []
    for looks in (False, True):
        task = tiny_task()
        torch.manual_seed(1)
        task = Task(Everything(), task.train_set, task.val_set)
        loop = make_loop(task, precision, batch_size=16, optimizer=optimizer)
        torch.manual_seed(2)
        for _ in range(3):
            before = state(loop)
            if looks:
                observe_again(loop, observe(loop))
            assert all(torch.equal(a, b) for a, b in zip(before, state(loop), strict=True))
            assert all(p.grad is None for p in loop.model.parameters())
            loop.train(2)
        runs.append(state(loop))
        digests.append(loop.data.digest())
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert digests[0] == digests[1]


class ByPhase(nn.Module):
    """Keeps the batches that it was called with, and computes in BF16 once it is told to."""

    def __init__(self, phase: dict[str, Any]) -> None:
        super().__init__()
        self.layer, self.phase = nn.Linear(8, 2), phase
        phase["seen"] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.phase["seen"].append((x.clone(), self.training))
        if "error" in self.phase:
            raise self.phase["error"]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled="lies" in self.phase):
            return self.layer(x).float()


@pytest.fixture
def by_phase(tiny_task: Callable[..., Task], make_loop: Callable[..., Loop]) -> tuple[Loop, dict[str, Any]]:
    phase: dict[str, Any] = {}
    task = tiny_task()
    return make_loop(Task(ByPhase(phase), task.train_set, task.val_set), batch_size=16, accumulate_steps=2), phase


def test_the_second_look_is_at_another_batch_in_training_mode(by_phase: tuple[Loop, dict[str, Any]]) -> None:
    loop, phase = by_phase
    first = observe(loop)
    loop.model.eval()
    assert observe_again(loop, first).mismatch(LADDER["fp32"]) is None
    (one, _), (other, training) = phase["seen"]
    assert training
    assert one.shape == other.shape == (8, 8)
    assert not torch.isin(one[:, 0], other[:, 0]).any()
    phase["lies"] = True
    last = observe_again(loop, first)
    assert (last.effective, last.share) == ("bf16-mixed", 0.0)
    assert last.deviation(LADDER["fp32"]) == "the step's matrix FLOPs ran as 100% bfloat16"


def test_the_second_look_calls_the_model_itself_where_steps_run_compiled(
    by_phase: tuple[Loop, dict[str, Any]],
) -> None:
    loop, phase = by_phase
    first, calls = observe(loop), []
    loop.train_by(lambda x: calls.append(x) or loop.model(x))  # type: ignore[arg-type, func-returns-value]
    phase["lies"] = True
    assert observe_again(loop, first).effective == "bf16-mixed"
    assert (calls, loop.is_compiled) == ([], True)
    loop.train(1)
    assert len(calls) == 2


def test_what_cannot_be_looked_at_again_is_unknown_but_where_memory_is_short(
    by_phase: tuple[Loop, dict[str, Any]],
) -> None:
    loop, phase = by_phase
    first = observe(loop)
    for error, effective in ((ValueError("planted"), None), (MemoryError("planted"), "fp32")):
        phase["error"] = error
        with pytest.warns(UserWarning, match="the last step's precision could not be observed: .*planted"):
            last = observe_again(loop, first)
        assert (last.effective, last.deviation(LADDER["fp32"])) == (effective, None)
        assert all(p.grad is None for p in loop.model.parameters())


class NarrowsForAWhile(nn.Module):
    """Allows narrower products around its own, as a library may, and forbids them again before anybody looks."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._C._set_fp32_precision_setter("mkldnn", "matmul", "bf16")
        try:
            return self.layer(x)
        finally:
            torch._C._set_fp32_precision_setter("mkldnn", "matmul", "ieee")


def test_a_setting_that_holds_for_some_products_alone_is_that_of_their_canary(
    monkeypatch: pytest.MonkeyPatch, tiny_task: Callable[..., Task], make_loop: Callable[..., Loop]
) -> None:
    """A CPU with AMX is mocked: its canary answers by the setting in force."""
    seen: list[str] = []

    def told(kind: str, *_: Any) -> str:
        seen.append(torch._C._get_fp32_precision_getter("mkldnn", kind))
        return "bfloat16" if seen[-1] == "bf16" else "float32"

    monkeypatch.setattr(products, "canary", told)
    task = tiny_task()
    loop = make_loop(Task(NarrowsForAWhile(), task.train_set, task.val_set), batch_size=16)
    found = observe(loop)
    assert sorted(seen) == ["bf16", "ieee"]  # forward and backward: the gradient of the weights
    assert found.share == pytest.approx(0.5)
    assert torch._C._get_fp32_precision_getter("mkldnn", "matmul") == "ieee"


class Experts(nn.Module):
    """Two layers of which one gets no rows, and a cache that the first call makes."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "cache"):
            self.register_buffer("cache", torch.ones(1))
        return torch.cat([self.used(x), self.idle(x[:0])]) * self.cache


def test_products_without_rows_and_buffers_that_a_step_makes_are_no_fault(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop]
) -> None:
    task = tiny_task()
    found = observe(make_loop(Task(Experts(), task.train_set, task.val_set), batch_size=16))
    assert (found.effective, found.share) == ("fp32", 1.0)


@pytest.mark.parametrize(
    ("product", "flops"),
    [
        (lambda a: torch.mv(a, a[0, :8]), 2 * 16 * 8),
        (lambda a: torch.addmv(torch.zeros(16, dtype=a.dtype), a, a[0, :8]), 2 * 16 * 8),
        (lambda a: a @ a.mT, 2 * 16 * 16 * 8),
    ],
)
def test_products_that_pytorchs_own_counter_leaves_out_are_counted(product: Callable[..., Any], flops: int) -> None:
    with MatrixFlops() as seen:
        product(torch.ones(16, 8, dtype=torch.bfloat16))
    assert seen.by_format(CPU) == {"bfloat16": flops}


class InComplex(nn.Module):
    """A layer (B, 8) to (B, 4) on complex numbers."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 8, 2))
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = torch.view_as_complex(self.weight).to(self.dtype)
        return torch.einsum("bi,oi->bo", x.to(self.dtype), weight).abs()


def test_complex_products_are_four_real_ones_each(observed: Callable[..., Observation]) -> None:
    """Forward, and backward of the weights."""
    found = observed(InComplex(torch.complex64), (16, 8))
    assert (found.effective, found.flops) == ("fp32", {"float32": 2 * 4 * 2 * 16 * 8 * 4})
    found = observed(InComplex(torch.complex128), (16, 8))
    assert (found.effective, found.share) == ("float64", 0.0)


def test_the_canary_of_complex_products_multiplies_complex_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that narrows those alone is mocked."""
    product = torch.Tensor.__matmul__

    def narrow(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        exact = product(a, b)
        return torch.view_as_complex(torch.view_as_real(exact).bfloat16().float()) if exact.is_complex() else exact

    monkeypatch.setattr(torch.Tensor, "__matmul__", narrow)
    with MatrixFlops() as seen:
        torch.mm(torch.ones(2, 3, dtype=torch.complex64), torch.ones(3, 4, dtype=torch.complex64))
        torch.mm(torch.ones(2, 3), torch.ones(3, 4))
    assert seen.by_format(CPU) == {"bfloat16": 4 * 2 * 2 * 3 * 4, "float32": 2 * 2 * 3 * 4}


def test_a_bilinear_layer_is_counted(observed: Callable[..., Observation]) -> None:
    """Forward, and backward of the weights: in the batch, the outputs and both inputs."""

    class Bilinear(nn.Bilinear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x[:, :3], x[:, 3:])

    for precision, ran in (("fp32", "float32"), ("bf16-true", "bfloat16")):
        found = observed(Bilinear(3, 5, 2), (16, 8), precision)
        assert (found.effective, found.flops) == (precision, {ran: 2 * 2 * 16 * 2 * 3 * 5})


SPARSE = torch.tensor([[1.0, 0, 0, 2.0], [0, 0, 3.0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("lay_out", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
@pytest.mark.parametrize("product", [torch.mm, torch.sparse.mm, lambda a, b: torch.addmm(torch.zeros(3, 5), a, b)])
def test_of_sparse_products_what_is_not_zero_counts(
    lay_out: Callable[..., torch.Tensor], product: Callable[..., torch.Tensor]
) -> None:
    with MatrixFlops() as seen:
        product(lay_out(SPARSE), torch.ones(4, 5))
    assert seen.by_format(CPU) == {"float32": 2 * 3 * 5}


@pytest.mark.parametrize(
    ("left", "right", "offsets", "flops"),
    [
        ((16, 8), (2, 8, 32), (8, 16), 2 * 16 * 8 * 32),
        ((2, 16, 8), (8, 32), (16, 32), 2 * 16 * 8 * 32),
        ((2, 16, 8), (2, 8, 32), None, 2 * 2 * 16 * 8 * 32),
        ((16, 8), (8, 32), (8, 8), 2 * 16 * 8 * 32),
    ],
)
def test_grouped_products_are_counted_once_a_row(
    left: tuple[int, ...], right: tuple[int, ...], offsets: tuple[int, ...] | None, flops: int
) -> None:
    offs = None if offsets is None else torch.tensor(offsets, dtype=torch.int32)
    with MatrixFlops() as seen:
        torch._grouped_mm(torch.ones(left, dtype=torch.bfloat16), torch.ones(right, dtype=torch.bfloat16), offs=offs)
    assert seen.by_format(CPU) == {"bfloat16": flops}


def test_the_canary_of_a_packed_sequence_has_its_batch_sizes() -> None:
    """With cuDNN's arguments, by hand: on CPUs such layers come down to plain products."""
    data, sizes = torch.ones(9, 4), torch.tensor([4, 3, 2])
    weights = [torch.ones(4, 4)] * 2
    args = (data, weights, 2, None, torch.zeros(1, 4, 4), None, 1, 4, 0, 1, False, 0.0, True, False, sizes.tolist())
    assert products._shapes("aten._cudnn_rnn", args) == ((9, 4), (4, 3, 2))
    assert products._shapes("aten._cudnn_rnn", (torch.ones(5, 2, 4), *args[1:14], [])) == ((5, 2, 4), ())


@pytest.mark.parametrize(
    ("flops", "effective", "is_told"),
    [
        ({"float32": 95, "unknown": 5}, "fp32", True),
        ({"float32": 60, "unknown": 40}, None, False),
        ({"unknown": 100}, None, False),
        ({"bfloat16": 60, "unknown": 40}, None, True),
        ({"bfloat16": 95, "unknown": 5}, "bf16-mixed", True),
    ],
)
def test_what_no_canary_could_replay_is_missing_where_it_decides(
    flops: dict[str, int], effective: str | None, is_told: bool
) -> None:
    found = judge(LADDER["fp32"], Counter(flops))
    assert (found.effective, found.is_told) == (effective, is_told)


def test_a_canary_that_fails_leaves_its_product_unknown(
    monkeypatch: pytest.MonkeyPatch, observed: Callable[..., Observation]
) -> None:
    """A kernel that does not take what the canary gives it is mocked."""

    def fails(*_: Any) -> torch.Tensor:
        raise RuntimeError("not supported")

    monkeypatch.setattr(torch.Tensor, "__matmul__", fails)
    found = observed(nn.Linear(8, 2), (16, 8))
    assert (found.effective, found.is_told, found.step_flops) == (None, False, None)


def test_the_canary_forgives_the_last_bits_that_a_sum_in_fp32_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd's convolution is mocked: it gives a value back with an error of some last bits."""
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: product(a, b) * (1 + 2**-22))
    assert canary("matmul", (16, 32, 8), CPU) == "float32"
