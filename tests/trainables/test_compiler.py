"""Compiled steps: the same training, compiled before anything is timed, and no silent way back to eager."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables import compiler as module
from trainables.build import build_observed
from trainables.compiler import CompiledModel, compiler
from trainables.isolation import isolated
from trainables.ladder import LADDER
from trainables.pairs import time_block
from trainables.probe import probe
from trainables.report import TrialReport
from trainables.spec import Checkpoints, TimingJob, TrialSpec
from trainables.trial import Trial, run_trial

MakeSpec = Callable[..., TrialSpec]
CPU = torch.device("cpu")


def last(spec: TrialSpec) -> TrialReport:
    return list(run_trial(spec))[-1]


@pytest.mark.parametrize("precision", ["fp32", "bf16-true", "bf16-mixed"])
def test_a_compiled_trial_trains_as_the_eager_one(make_spec: MakeSpec, tmp_path: Path, precision: str) -> None:
    kept = Checkpoints(str(tmp_path), 30, "val_accuracy", "max")
    spec = make_spec("products", precision, checkpoints=kept)
    eager = last(spec)
    weights = torch.load(str(eager.checkpoint), weights_only=True)
    compiled = last(replace(spec, compile=True))
    assert (eager.compiled, compiled.compiled) == (False, True)
    assert compiled.status == "completed", compiled.status_reason
    assert (compiled.effective_precision, compiled.effective_share) == (precision, 1.0)
    assert (compiled.init_digest, compiled.data_digest) == (eager.init_digest, eager.data_digest)
    assert compiled.train_loss == pytest.approx(eager.train_loss, rel=0.01)
    assert compiled.metrics == pytest.approx(eager.metrics, rel=0.01)
    same = torch.load(str(compiled.checkpoint), weights_only=True)
    assert list(same) == list(weights) == ["0.weight", "1.weight"]
    assert all(torch.allclose(same[name], weights[name], rtol=0.02, atol=1e-3) for name in weights)


def test_training_runs_compiled_and_evaluation_eager(make_spec: MakeSpec) -> None:
    found = last(make_spec("tells", compile=True))
    assert found.train_loss == pytest.approx(torch.tensor(2.0).log().item())
    assert found.metrics["val_loss"] != pytest.approx(found.train_loss)


def test_a_compiled_trial_goes_on_bit_for_bit(make_spec: MakeSpec) -> None:
    spec = make_spec("products", compile=True)
    whole = list(run_trial(spec))
    first, second = Trial(spec), Trial(spec)
    reports = first.reports()
    assert next(reports).metrics == whole[0].metrics
    second.take_up(first.state_dict())
    reports.close()
    [rest] = second.reports()
    assert (rest.compiled, rest.train_loss, rest.metrics) == (True, whole[1].train_loss, whole[1].metrics)


def test_compiling_leaves_the_loop_as_it_was(make_spec: MakeSpec) -> None:
    """Weights, gradients, and the generator that dropout draws from: all as after building without compiling."""
    states = []
    for compile in (False, True):
        with isolated(LADDER["fp32"], 0, 1, compile=compile):
            loop, _ = build_observed(make_spec("drops", compile=compile), LADDER["fp32"], CPU)
            assert loop.is_compiled is compile
            assert all(p.grad is None for p in loop.model.parameters())
            states.append([*loop.model.state_dict().values(), torch.get_rng_state()])
            assert (loop.step, loop.optimizer.state_dict()["state"]) == (0, {})
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_shapes_that_force_compiling_again_and_again_are_noticed(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of 2 in place of 8, for the tests' time."""
    monkeypatch.setattr(module, "RECOMPILES", 2)
    spec = make_spec("sequences", config={"batch_size": 16, "by_position": True}, compile=True)
    found = last(spec)
    assert (found.status, found.compiled) == ("errored", False)
    assert "had to compile more than 2 times; give them fewer shapes, as padding does, or leave compile off" in str(
        found.status_reason
    )
    assert "\n" not in str(found.status_reason)
    found = last(replace(spec, config={"batch_size": 16, "by_position": False}))
    assert (found.status, found.compiled) == ("completed", True)


def test_a_model_that_pytorch_silently_leaves_out_is_not_called_compiled(make_spec: MakeSpec) -> None:
    found = last(make_spec("uncompiled", compile=True))
    assert (found.status, found.compiled) == ("errored", False)
    assert "torch.compile found nothing to compile" in str(found.status_reason)


def test_a_compiled_trial_that_changes_its_arithmetic_is_noticed(make_spec: MakeSpec) -> None:
    found = last(make_spec("turns", compile=True))
    assert (found.status, found.compiled, found.effective_precision) == ("precision_mismatch", True, "bf16-mixed")
    assert "by step 8, the step's matrix FLOPs ran as 100% bfloat16" in str(found.status_reason)


def test_a_task_may_compile_while_it_is_built_and_once_too_often(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it compiles itself then goes on uncompiled, as it does anywhere; its model has the whole limit yet."""
    monkeypatch.setattr(module, "RECOMPILES", 1)
    record = time_block(TimingJob(make_spec("compiles_in_building", compile=True), ("fp32",), windows=1))
    assert record["status"] == "completed", record["status_reason"]
    assert [arm["compiled"] for arm in record["arms"]] == [True] * 2


def test_a_machine_without_a_c_compiler_says_so(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    spec = make_spec("drops", compile=True)
    [result] = probe(spec, ["fp32"])
    assert (result.status, result.compiled) == ("errored", False)
    assert "torch.compile failed on the model: " in str(result.status_reason)
    assert "no-such-compiler" in str(result.status_reason)
    assert "\n" not in str(result.status_reason)


class SavedProduct(torch.autograd.Function):
    """Its gradient is a product of FP32 matrices that forward never multiplied."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        a, b = ctx.saved_tensors
        return a @ b, None, None


class Saved(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = torch.nn.Parameter(torch.zeros(8, 8))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return SavedProduct.apply(self.x, a, b)  # type: ignore[no-any-return,no-untyped-call]


def test_backward_runs_outside_of_autocast() -> None:
    """As in eager AMP; PyTorch's default would compile it as if inside, and round this gradient to BF16."""
    model, a, b = Saved(), torch.randn(8, 8), torch.randn(8, 8)
    with compiler(True, 1):
        compiled = CompiledModel(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = compiled(a, b)
        output.sum().backward()
    assert compiled.num_graphs == 1
    assert torch.equal(model.x.grad, a @ b)  # type: ignore[arg-type]


def test_every_trial_of_a_process_has_the_limit_for_itself_and_leaves_no_setting(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._dynamo.config as config

    monkeypatch.setattr(module, "RECOMPILES", 1)
    before = (config.recompile_limit, config.fail_on_recompile_limit_hit)
    assert [last(make_spec("products", compile=True)).status for _ in range(2)] == ["completed"] * 2
    assert (config.recompile_limit, config.fail_on_recompile_limit_hit) == before


def test_arms_are_all_compiled_or_none(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three arms of one class, of which PyTorch counts all compilations together."""
    monkeypatch.setattr(module, "RECOMPILES", 1)
    for compile in (True, False):
        job = TimingJob(make_spec("products", compile=compile), ("fp32", "bf16-true"), windows=1)
        record = time_block(TimingJob.from_json(job.to_json()))
        assert record["status"] == "completed", record["status_reason"]
        assert [arm["compiled"] for arm in record["arms"]] == [compile] * 3
        assert {(arm["precision"], arm["effective_precision"]) for arm in record["arms"]} == {
            ("fp32", "fp32"),
            ("bf16-true", "bf16-true"),
        }
