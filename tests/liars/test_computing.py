"""Liars about what a step computes in: none of them is a data point, and each twin is one."""

import random
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from planted import BOTH, last_report, liar_and_twin, spec

from trainables.report import TrialReport


def caught(liar: TrialReport, twin: TrialReport, precision: str) -> str:
    """The reason why the liar's trial is no data point, once its twin's is one."""
    assert (twin.status, twin.status_reason, twin.effective_precision) == ("completed", None, precision)
    assert liar.status == "precision_mismatch"
    assert liar.step == 0  # before anything was spent
    assert liar.status_reason is not None
    return liar.status_reason


@pytest.mark.parametrize("case", ["autocast_off", "autocast_off_in_a_layer", "cuda_amp"])
def test_autocast_that_is_off(case: str, draw: random.Random) -> None:
    wide = [draw.randrange(32, 72, 8) for _ in range(2)]  # or else the head, where the twin lies, would count
    with pytest.warns(UserWarning, match="CUDA is not available") if case == "cuda_amp" else nullcontext():
        liar, twin = liar_and_twin(case, draw, "bf16-mixed", widths=wide)
    assert "float32" in caught(liar, twin, "bf16-mixed")


@pytest.mark.parametrize("precision", ["fp32", "bf16-true"])
def test_inputs_and_weights_cast_to_another_format(precision: str, draw: random.Random) -> None:
    liar, twin = liar_and_twin("casts", draw, precision, asked=precision)
    assert ("bfloat16" if precision == "fp32" else "float32") in caught(liar, twin, precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_weights_that_were_loaded_in_bf16(precision: str, draw: random.Random) -> None:
    liar, twin = liar_and_twin("loads_in_bf16", draw, precision)
    assert "bfloat16" in caught(liar, twin, precision)


def test_a_default_dtype_left_on_by_the_builder(draw: random.Random) -> None:
    dtype = draw.choice(["bfloat16", "float64"])
    liar, twin = liar_and_twin("leaves_a_default_dtype", draw, "fp32", dtype=dtype)
    assert dtype in caught(liar, twin, "fp32")
    assert torch.get_default_dtype() is torch.float32


def test_a_matmul_setting_left_on_by_the_task(draw: random.Random) -> None:
    fields = {"setting": draw.choice(["high", "medium"]), "in_forward": draw.random() < 0.5}
    liar, twin = liar_and_twin("leaves_a_matmul_setting", draw, "fp32", **fields)
    assert "precision" in caught(liar, twin, "fp32")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("precision", BOTH)
def test_arithmetic_that_changes_after_some_steps(precision: str, draw: random.Random) -> None:
    """From the first step that nobody watched on, or as late as the last."""
    steps = draw.randint(4, 24)
    how, after = draw.choice(["autocast", "dtype"]), draw.randint(1, steps)
    liar, twin = liar_and_twin("changes_later", draw, precision, how=how, after=after, max_steps=steps)
    assert (twin.status, twin.status_reason, twin.effective_precision) == ("completed", None, precision)
    assert (liar.status, liar.step) == ("precision_mismatch", steps)
    assert liar.effective_precision not in (None, precision)
    ran = "float64" if how == "dtype" else "float32" if precision == "bf16-mixed" else "bfloat16"
    assert f"by step {steps}, the step's matrix FLOPs ran as 100% {ran}" in str(liar.status_reason)


def test_settings_left_on_by_an_earlier_trial(draw: random.Random) -> None:
    """Whatever ran before in a process, a trial comes out as in a fresh one, to the last bit."""
    precision, honest = draw.choice(["fp32", "bf16-mixed"]), spec("leaves_everything_changed", draw, "fp32", lies=False)
    alone = _figures(honest, precision)
    for lies in (False, True):
        last_report(spec("leaves_everything_changed", draw, precision, lies=lies, seed=draw.randrange(1000)))
        assert _figures(honest, precision) == alone


def _figures(honest: Any, precision: str) -> tuple[Any, ...]:
    report = last_report(replace(honest, precision=precision))
    assert report.status == "completed"
    return report.train_loss, report.metrics, report.effective_precision, report.init_digest, report.data_digest
