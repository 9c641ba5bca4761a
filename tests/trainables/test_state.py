"""Steps in a state that is not their precision's, by tasks that lie, each beside what an honest one does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.data import TensorDataset

from trainables.effective import Observation, observe
from trainables.ladder import LADDER
from trainables.loading import TaskSource
from trainables.loop import Loop
from trainables.precision import changed_setting, numerics
from trainables.report import TrialReport
from trainables.spec import Budget, TrialSpec
from trainables.state import State, read_state
from trainables.task import Task
from trainables.trial import run_trial

PRECISIONS = ("fp32", "bf16-mixed", "fp16-mixed", "bf16-true")

LIES = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from trainables import Task

class Words(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.embedding = nn.Embedding(10, 8, dtype=dtype)
        self.head = nn.Linear(8, 2)
    def forward(self, words):
        return self.head(self.embedding(words).mean(1).to(self.head.weight.dtype))

def build(config):
    words = torch.randint(10, (64, 5), generator=torch.Generator().manual_seed(1))
    data = TensorDataset(words, words[:, 0] % 2)
    calls = []
    def loss(outputs, batch):
        calls.extend([1] if torch.is_grad_enabled() else [])
        if len(calls) == config.get("at", -1):  # the first call is the observation's
            exec(config["lie"])
        return nn.functional.cross_entropy(outputs.float(), batch[1])
    if config.get("at", 0) == 0:
        exec(config["lie"])
    model = Words(getattr(torch, config.get("embedding", "float32")))
    return Task(getattr(model, config.get("cast", "cpu"))(), data, data, loss=loss)
"""


@pytest.fixture
def end(make_spec: Callable[..., TrialSpec], task_file: Callable[..., TaskSource]) -> Callable[..., TrialReport]:
    """The last report of a trial of 8 steps on a task that may lie."""
    source = task_file(LIES)

    def run(precision: str, **config: Any) -> TrialReport:
        config = {"batch_size": 16, "lie": "", **config}
        return list(run_trial(make_spec(source, precision, config=config, budget=Budget(max_epochs=2))))[-1]

    return run


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_embedding_in_another_format_is_no_data_point(end: Callable[..., TrialReport], precision: str) -> None:
    """It takes part in no matrix product, so that all of them run as asked; a precision of one dtype casts it."""
    assert end(precision).status == "completed"
    for dtype in ("bfloat16", "float64"):
        report = end(precision, embedding=dtype)
        if precision == "bf16-true":
            assert report.status == "completed"
            continue
        assert (report.status, report.effective_precision, report.step) == ("precision_mismatch", None, 0)
        expected = f"asked for {precision}, but embedding.weight is {dtype}, not float32"
        assert report.status_reason == expected


@pytest.mark.parametrize("cast", ["bfloat16", "half"])
@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "fp16-mixed"])
def test_weights_in_16_bits_are_no_mixed_precision(end: Callable[..., TrialReport], precision: str, cast: str) -> None:
    """Under the scaler, too, which would refuse FP16 gradients only in the first step."""
    report = end(precision, cast=cast)
    assert report.status == "precision_mismatch"
    assert f"embedding.weight is {'float16' if cast == 'half' else cast}" in str(report.status_reason)


def test_it_is_told_where_the_step_fails_for_it(
    make_spec: Callable[..., TrialSpec], task_file: Callable[..., TaskSource]
) -> None:
    """A layer in BF16 does not take inputs in FP32."""
    source = task_file(
        "from tests.trainables import tiny_tasks\ndef build(config):\n"
        "    task = tiny_tasks.build(config)\n    task.model.bfloat16()\n    return task\n"
    )
    report = list(run_trial(make_spec(source)))[-1]
    assert report.status == "precision_mismatch"
    assert "0.weight is bfloat16, not float32" in str(report.status_reason)


SETTINGS = {
    "torch.set_float32_matmul_precision('medium')": "float32_matmul_precision was changed from highest to medium",
    "torch.set_default_dtype(torch.bfloat16)": "default_dtype was changed from torch.float32 to torch.bfloat16",
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'": "cuda.matmul.fp32_precision was changed from ieee to tf32",
    "torch.backends.cudnn.conv.fp32_precision = 'tf32'": "cuda.conv.fp32_precision was changed from ieee to tf32",
    "torch.backends.mkldnn.conv.fp32_precision = 'bf16'": "mkldnn.conv.fp32_precision was changed from ieee to bf16",
    "torch.set_autocast_enabled('cpu', True)": "autocast.cpu was changed from False to True",
}


@pytest.mark.parametrize(("lie", "says"), SETTINGS.items())
def test_a_setting_that_a_task_changes_is_noticed_by_its_name(
    end: Callable[..., TrialReport], lie: str, says: str
) -> None:
    """In building, and in a step after the observed one."""
    report = end("fp32", lie=lie)
    assert (report.status, report.step) == ("precision_mismatch", 0)
    assert says in str(report.status_reason)
    report = end("fp32", lie=lie, at=3)
    assert (report.status, report.step, report.effective_precision) == ("precision_mismatch", 4, None)
    assert f"by step 4, {says}" in str(report.status_reason)


def test_settings_of_speed_are_a_tasks_own(end: Callable[..., TrialReport]) -> None:
    assert end("fp32", lie="torch.backends.cudnn.benchmark = True").status == "completed"


@pytest.mark.parametrize("precision", [*PRECISIONS, "tf32"])
def test_what_is_put_in_force_reads_as_unchanged(precision: str) -> None:
    with numerics(LADDER[precision]):
        assert changed_setting(LADDER[precision]) is None


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_honest_loop_keeps_the_state_of_its_precision(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], precision: str
) -> None:
    loop = make_loop(tiny_task(), precision, batch_size=16)
    loop.train(2)
    found = read_state(loop)
    wanted = LADDER[precision].parameters
    assert found.parameters == {wanted: "0.weight"}
    assert found.optimizer == {wanted: "the optimizer's exp_avg of 0.weight"}
    assert found.fault(LADDER[precision]) is None
    loop.forward(loop.data.first_part())[1].backward()
    assert read_state(loop).gradients == {wanted: "0.weight"}
    assert observe(loop).fault is None


@pytest.mark.parametrize(
    ("scaler", "says"),
    [
        ({"enabled": False}, "the loss scaler is off"),
        ({"init_scale": 0.0}, "the loss scale is 0.0, so that no step would be applied"),
        ({"init_scale": float("inf")}, "the loss scale is inf"),
        ({}, None),
    ],
)
def test_a_scaler_that_cannot_work_is_noticed_at_once(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], scaler: dict[str, Any], says: str | None
) -> None:
    loop = make_loop(tiny_task(), "fp16-mixed", batch_size=16)
    loop.scaler = torch.amp.GradScaler("cpu", **scaler)
    found = observe(loop)
    mismatch = found.mismatch(LADDER["fp16-mixed"])
    assert mismatch is None if says is None else says in str(mismatch)
    assert found.effective == ("fp16-mixed" if says is None else None)


def test_autocast_that_does_not_come_on_is_named(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop]
) -> None:
    """As CUDA's on a CPU, which warns and turns itself off."""
    loop = make_loop(tiny_task(), "bf16-mixed", batch_size=16)
    asked = loop.autocast
    loop.autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=False)
    assert "autocast was off as the model was called, not on, to torch.bfloat16" in str(observe(loop).fault)
    loop.autocast = asked
    assert observe(loop).fault is None


def test_state_that_an_optimizer_keeps_otherwise_is_named(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop]
) -> None:
    loop = make_loop(tiny_task(), batch_size=16)
    loop.train(1)
    kept = loop.optimizer.state[loop.model[2].weight]
    kept["exp_avg_sq"] = kept["exp_avg_sq"].bfloat16()
    expected = "the optimizer's exp_avg_sq of 2.weight is bfloat16, not float32"
    assert read_state(loop).fault(LADDER["fp32"]) == expected
    state = State({"float32": "w"}, {"float32": "w", "float16": "v"}, {})
    assert state.fault(LADDER["fp32"]) == "the gradient of v is float16, not float32"


class Attention(nn.Module):
    def __init__(self, backend: SDPBackend | None, by_module: bool = False) -> None:
        super().__init__()
        self.projection, self.backend = nn.Linear(16, 48), backend
        self.module = nn.MultiheadAttention(16, 2, batch_first=True) if by_module else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projection(x).chunk(3, -1)
        if self.module is not None:
            return self.module(q, k, v, need_weights=False)[0].mean(1)
        q, k, v = (each.unflatten(-1, (2, 8)).transpose(1, 2) for each in (q, k, v))
        if self.backend is None:
            return scaled_dot_product_attention(q, k, v).mean((1, 2))
        with sdpa_kernel(self.backend):
            return scaled_dot_product_attention(q, k, v).mean((1, 2))


@pytest.mark.parametrize(
    ("model", "kernel"),
    [
        (lambda: Attention(None), "flash"),
        (lambda: Attention(SDPBackend.FLASH_ATTENTION), "flash"),
        (lambda: Attention(SDPBackend.MATH), "math"),
        (lambda: Attention(None, by_module=True), "flash"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(80, 2)), None),
    ],
)
def test_the_attention_kernel_that_ran_is_told(
    make_loop: Callable[..., Loop], model: Callable[[], nn.Module], kernel: str | None
) -> None:
    data = TensorDataset(torch.randn(8, 5, 16), torch.zeros(8, dtype=torch.int64))
    found: Observation = observe(make_loop(Task(model(), data, data), batch_size=4))
    assert (found.attention, found.effective) == (kernel, "fp32")
