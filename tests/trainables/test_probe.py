"""The probe: which precisions trials may run in, and why others may not."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

import trainables.probe as probe_module
from trainables.ladder import LADDER
from trainables.loading import TaskError, TaskSource, find_task
from trainables.probe import ProbeResult, probe
from trainables.spec import Budget, TrialSpec

MakeSpec = Callable[..., TrialSpec]


def results(spec: TrialSpec, *precisions: str) -> dict[str, ProbeResult]:
    found = {result.precision: result for result in probe(spec, precisions)}
    assert tuple(found) == precisions
    return found


def test_the_ladder_on_digits_on_a_cpu() -> None:
    """FP16 may be hopeless here or not; what it says must fit."""
    config = {"width": 4, "batch_size": 8}
    spec = TrialSpec("p", find_task("trainables.tasks.digits:build"), config, "", 0, Budget(max_epochs=1))
    found = results(spec, *LADDER)
    for name in ("fp32", "bf16-mixed", "bf16-true", "fp16-mixed", "fp16-true"):
        result = found[name]
        assert result.status in (("completed", "excluded") if name != "fp32" else ("completed",))
        assert result.is_usable is (result.status == "completed")
        assert (result.status_reason is None) is result.is_usable
        assert (result.effective_precision, result.effective_share) == (name, 1.0)
        assert result.step_ms is not None
        assert result.samples_per_s == pytest.approx(8e3 / result.step_ms)
        assert result.metrics == ("val_accuracy", "val_loss")
    for name in ("tf32", "fp8-tensorwise", "fp8-rowwise"):
        assert found[name].status == "unsupported"
        assert found[name].status_reason
    assert len({(r.device, r.node) for r in found.values()}) == 1
    halved = found["bf16-true"].peak_memory_bytes / found["fp32"].peak_memory_bytes
    assert 0.45 < halved < 0.6


def test_a_hopeless_precision_is_excluded_with_its_figures(make_spec: MakeSpec) -> None:
    found = results(make_spec("slow_below_fp32"), "fp32", "bf16-mixed", "bf16-true", "fp16-mixed")
    assert [r.status for r in found.values()] == ["completed", "excluded", "completed", "excluded"]
    slow = found["bf16-mixed"]
    assert slow.step_ms > 30
    assert "times the baseline's; limit 5" in str(slow.status_reason)
    assert slow.effective_precision == "bf16-mixed"


def test_a_precision_that_was_only_kept_waiting_is_not_left_out(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The waiting is planted: all of the sleep in a slow step counts as time for which others held the processors.

    It counts twice, since a step that has slept needs more than others to come to speed again.
    """
    slept, sleep = [0.0], time.sleep

    def counted(seconds: float) -> None:
        started = time.perf_counter()
        sleep(seconds)
        slept[0] += 2e9 * (time.perf_counter() - started)

    monkeypatch.setattr(time, "sleep", counted)
    waited = probe_module.waiting_ns  # what truly waited counts as well: this machine may have other work

    def planted() -> dict[str, int]:
        return {"1": int(slept[0]) + max(waited().values(), default=0)}

    monkeypatch.setattr(probe_module, "waiting_ns", planted)
    found = results(make_spec("slow_below_fp32"), "fp32", "bf16-mixed")
    assert [r.status for r in found.values()] == ["completed", "completed"]
    assert found["bf16-mixed"].step_ms > 30


def test_the_first_precision_that_runs_is_what_others_are_compared_with(make_spec: MakeSpec) -> None:
    found = results(make_spec("slow_below_fp32"), "tf32", "bf16-mixed", "fp16-mixed", "fp32")
    assert [r.status for r in found.values()] == ["unsupported", "completed", "completed", "completed"]


@pytest.mark.parametrize(
    ("task", "precisions", "statuses"),
    [
        ("fails_in_bf16", ("fp32", "bf16-mixed", "bf16-true"), ["completed", "errored", "completed"]),
        ("lies", ("fp32", "bf16-mixed"), ["precision_mismatch", "completed"]),
        ("out_of_memory_in_forward", ("fp32", "bf16-true"), ["out_of_memory", "out_of_memory"]),
        ("out_of_memory_in_build", ("fp32",), ["out_of_memory"]),
    ],
)
def test_what_fails_in_one_precision_does_not_stop_the_others(
    make_spec: MakeSpec, task: str, precisions: tuple[str, ...], statuses: list[str]
) -> None:
    found = results(make_spec(task), *precisions)
    assert [r.status for r in found.values()] == statuses
    assert all(bool(r.status_reason) is not r.is_usable for r in found.values())


@pytest.mark.parametrize("task", ["raises_in_build", "exits"])
def test_a_task_that_cannot_be_built_is_an_error_at_once(make_spec: MakeSpec, task: str) -> None:
    with pytest.raises(TaskError, match=r"planted in build|usage: train\.py"):
        list(probe(make_spec(task), ["fp32"]))


def test_a_task_that_cannot_be_imported_is_an_error_at_once(
    make_spec: MakeSpec, task_file: Callable[..., TaskSource]
) -> None:
    with pytest.raises(TaskError, match="planted"):
        list(probe(make_spec(task_file("def build(config): pass\nraise KeyError('planted')")), ["fp32"]))


def test_the_probe_leaves_the_process_as_it_was(make_spec: MakeSpec) -> None:
    def state() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.get_num_threads()

    before = state()
    results(make_spec("vandal"), "fp32", "bf16-mixed")
    assert state() == before
