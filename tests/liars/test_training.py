"""Liars about how training goes: losses that are no numbers, scales that come to nothing, steps that were skipped."""

import random

import pytest
from planted import liar_and_twin

PRECISIONS = ["fp32", "bf16-mixed", "fp16-mixed"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_loss_that_is_nan_late(precision: str, draw: random.Random) -> None:
    fields = {"every": None, "from": draw.randrange(8, 15), "max_steps": 16}
    liar, twin = liar_and_twin("loss_turns_nan", draw, precision, **fields)
    assert (twin.status, twin.skipped_steps) == ("completed", 0)
    assert liar.status == "diverged"
    assert "loss" in str(liar.status_reason)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_loss_that_is_nan_in_every_tenth_step(precision: str, draw: random.Random) -> None:
    fields = {"every": 10, "from": draw.randrange(1, 10), "max_steps": 24}
    liar, twin = liar_and_twin("loss_turns_nan", draw, precision, **fields)
    assert (twin.status, twin.skipped_steps) == ("completed", 0)
    assert liar.status == "diverged"
    assert "loss" in str(liar.status_reason)


def test_a_scale_that_comes_to_nothing(draw: random.Random) -> None:
    first = 2.0**16
    fits = first / 2 ** draw.randint(1, 4)
    liar, twin = liar_and_twin("scale_collapses", draw, "fp16-mixed", fits=fits, max_steps=40)
    assert twin.status == "completed"
    assert (twin.loss_scale, 2**twin.skipped_steps) == (fits, first / fits)
    assert liar.status == "diverged"
    assert "scale" in str(liar.status_reason)
    assert liar.applied_steps == 0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_steps_that_a_fused_optimizer_skips(optimizer: str, draw: random.Random) -> None:
    """AdamW is fused, and is called in steps that overflow; SGD is not."""
    at = sorted(draw.sample(range(1, 13), draw.randint(1, 4)))
    liar, twin = liar_and_twin("overflows_now_and_then", draw, "fp16-mixed", at=at, optimizer=optimizer, max_steps=12)
    assert (twin.status, twin.skipped_steps, twin.applied_steps) == ("completed", 0, 12)
    assert (liar.status, liar.skipped_steps, liar.applied_steps) == ("completed", len(at), 12 - len(at))
    assert liar.loss_scale == 2.0 ** (16 - len(at))
