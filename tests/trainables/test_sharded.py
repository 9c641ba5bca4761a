"""Workers that share out a model (FSDP2) do what one does that has all of it, and each holds less."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import teamwork
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from trainables.loading import find_task
from trainables.sharded import blocks_of
from trainables.spec import STATE_FILE, Budget, Checkpoints, TrialSpec

HERE = Path(__file__).parent
Together = Callable[..., list[Any]]


def spec(num_workers: int, folder: Path | None = None, task: str = "build_stack", **config: Any) -> TrialSpec:
    """A trial whose workers share out the model where there are several."""
    kept = None if folder is None else Checkpoints(str(folder), 0, "val_accuracy", "max")
    hyper = {"batch_size": 16, "accumulate_steps": 2, "learning_rate": 0.01, "max_grad_norm": 1.0}
    source = find_task(f"{HERE / 'teamwork.py'}:{task}")
    budget = Budget(max_steps=12, report_every_steps=4)
    fields: dict[str, Any] = {"examples_of": "val_accuracy", "checkpoints": kept, "fsdp": num_workers > 1}
    return TrialSpec("t", source, {**hyper, **config}, "fp32", 5, budget, num_workers=num_workers, **fields)


HYPER = [
    {"batch_size": 16},
    {"batch_size": 15, "accumulate_steps": 3, "max_grad_norm": 0.5, "optimizer": "sgd", "learning_rate": 0.1},
]


@pytest.mark.parametrize("hyper", HYPER, ids=["adamw", "unequal shares, clipped, sgd"])
@pytest.mark.parametrize("model", [teamwork.Stack, teamwork.FrozenStack], ids=["whole", "partly frozen"])
def test_twenty_steps_of_two_are_those_of_one(together: Together, hyper: dict[str, Any], model: type) -> None:
    for dtype, limit in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
        alone = teamwork.train(None, dtype, 20, hyper, "fp32", False, model)
        first, second = together(teamwork.train, dtype, 20, hyper, "fp32", True, model)
        assert torch.equal(first["weights"], second["weights"])
        difference = first["weights"] - alone["weights"]
        assert difference.abs().max() < limit if dtype is torch.float64 else difference.norm() < limit
        figures = {name: value for name, value in dataclasses.asdict(alone["progress"]).items() if value is not None}
        assert {name: getattr(first["progress"], name) for name in figures} == pytest.approx(figures, rel=1e-5)
        assert max(first["held"], second["held"]) < 0.6 * alone["held"]


def test_a_loss_scale_that_overflows_skips_the_same_steps_in_all_workers(together: Together) -> None:
    hyper = {"batch_size": 16, "learning_rate": 1e-2, "warmup_frac": 0.5, "max_grad_norm": 1.0}
    replicated, _ = together(teamwork.train, torch.float32, 6, hyper, "fp16-mixed", False, teamwork.SteepStack)
    first, second = together(teamwork.train, torch.float32, 6, hyper, "fp16-mixed", True, teamwork.SteepStack)
    assert first["progress"] == second["progress"]
    assert 0 < first["progress"].applied_steps == replicated["progress"].applied_steps < 6
    assert first["progress"].loss_scale == replicated["progress"].loss_scale
    assert (first["weights"] - replicated["weights"]).norm() < 1e-3


def test_a_process_takes_another_rank_in_the_next_trial(together: Together) -> None:
    for at in ([0, 1], [1, 0], [0, 1]):
        for differences in together(teamwork.save_and_load, at):
            assert differences == 0.0


def test_a_trial_of_two_reports_what_one_of_one_does_and_keeps_whole_weights(
    together: Together, tmp_path: Path
) -> None:
    alone = teamwork.run(None, spec(1, tmp_path / "one"))
    first, second = together(teamwork.run, spec(2, tmp_path / "two"))
    assert [report["status"] for report in first] == ["running", "running", "completed"], first[-1]["status_reason"]
    for one, two in zip(alone, first, strict=True):
        for name in ("step", "init_digest", "data_digest", "effective_precision", "step_flops"):
            assert one[name] == two[name], name
        for name in ("train_loss", "grad_norm"):
            assert one[name] == pytest.approx(two[name], rel=1e-4), name
        assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-4)
    assert (alone[-1]["examples"] == first[-1]["examples"]).all()
    weights = [torch.load(tmp_path / name / "t" / "weights.pt") for name in ("one", "two")]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-6) for name in weights[0])
    assert second[-1]["checkpoint"] is None


def measured(reports: list[dict[str, Any]]) -> list[Any]:
    return [
        (report["status"], report["step"], report["train_loss"], report["grad_norm"], report["metrics"])
        for report in reports
    ]


def resume(folder: Path, **config: Any) -> None:
    """Has a saved trial take no notice of what made it end."""
    state = torch.load(folder / "t" / STATE_FILE)
    state["of"]["config"] = dict(spec(2, **config).config)
    torch.save(state, folder / "t" / STATE_FILE)


@pytest.mark.parametrize("at", [11, 14])
def test_a_trial_of_two_goes_on_bit_for_bit(together: Together, tmp_path: Path, at: int) -> None:
    whole, _ = together(teamwork.run, spec(2, dropout=0.3))
    left, _ = together(teamwork.run, spec(2, tmp_path, dropout=0.3, at=at))
    assert left[-1]["status"] == "running"
    resume(tmp_path, dropout=0.3)
    again, _ = together(teamwork.run, spec(2, tmp_path, dropout=0.3))
    assert measured(again) == measured(whole)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_trial_goes_on_whole_or_shared_out(together: Together, tmp_path: Path, before: int, after: int) -> None:
    def go(num_workers: int, *args: Any, **config: Any) -> list[dict[str, Any]]:
        asked = spec(num_workers, *args, **config)
        return teamwork.run(None, asked) if num_workers == 1 else together(teamwork.run, asked)[0]

    whole = go(1)
    go(before, tmp_path, at=17)
    resume(tmp_path)
    again = go(after, tmp_path)
    assert [report["status"] for report in again] == ["running", "running", "completed"]
    assert again[-1]["metrics"] == pytest.approx(whole[-1]["metrics"], rel=1e-4)
    assert again[-1]["train_loss"] == pytest.approx(whole[-1]["train_loss"], rel=1e-4)


def test_the_probe_and_the_timing_of_two_agree_and_memory_is_less(together: Together) -> None:
    first, second = together(teamwork.probe_all, spec(2), ["fp32", "bf16-mixed"])
    assert [result.status for result in first] == ["completed", "completed"], first[0].status_reason
    for one, two in zip(first, second, strict=True):
        assert (one.step_ms, one.route, one.effective_precision) == (two.step_ms, two.route, two.effective_precision)
    replicated, _ = together(teamwork.probe_all, dataclasses.replace(spec(2), fsdp=False), ["fp32"])
    assert first[0].peak_memory_bytes < replicated[0].peak_memory_bytes
    first, second = together(teamwork.time_arms, spec(2))
    assert first["status"] == "completed", first["status_reason"]
    assert [arm["window_ms"] for arm in first["arms"]] == [arm["window_ms"] for arm in second["arms"]]


def test_compiled_steps_share_a_model_too(together: Together) -> None:
    whole, _ = together(teamwork.run, spec(2))
    compiled, _ = together(teamwork.run, dataclasses.replace(spec(2), compile=True))
    assert compiled[-1]["compiled"], compiled[-1]["status_reason"]
    assert compiled[-1]["metrics"] == pytest.approx(whole[-1]["metrics"], rel=1e-3)


def test_a_layout_that_shares_cannot_have_is_not_taken(together: Together) -> None:
    first, _ = together(teamwork.run, dataclasses.replace(spec(2), route="channels_last"))
    assert (first[-1]["status"], first[-1]["route"]) == ("completed", "default")


def test_a_forward_of_the_task_s_own_is_refused(together: Together) -> None:
    first, second = together(teamwork.run, spec(2, task="build_with_forward"))
    assert first[-1]["status"] == second[-1]["status"] == "errored"
    assert "forward: must be left to the model" in first[-1]["status_reason"]


def test_blocks_are_what_a_model_says_or_the_entries_of_its_lists() -> None:
    gpt = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=11, n_positions=4))
    assert blocks_of(gpt) == list(gpt.transformer.h)
    stack = teamwork.Stack()
    assert blocks_of(nn.Sequential(stack)) == list(stack.blocks)
    inner = nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])
    assert blocks_of(nn.ModuleDict({"a": nn.ModuleList([inner, stack.blocks[0]])})) == [inner[0], stack.blocks[0]]
    assert blocks_of(nn.Linear(2, 2)) == []
