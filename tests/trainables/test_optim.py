"""The learning rate's factor, worked by hand and by its properties."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.optim import learning_rate_factor, make_sgd

SCHEDULES = ("constant", "linear", "cosine")


@pytest.mark.parametrize(
    ("schedule", "warmup", "factors"),
    [
        ("constant", 0.0, [1, 1, 1, 1]),
        ("constant", 0.5, [1 / 2, 1, 1, 1]),
        ("linear", 0.0, [1, 3 / 4, 1 / 2, 1 / 4]),
        ("linear", 0.5, [1 / 2, 1, 1, 1 / 2]),
        ("linear", 1.0, [1 / 4, 1 / 2, 3 / 4, 1]),
        ("cosine", 0.0, [1, (1 + math.sqrt(1 / 2)) / 2, 1 / 2, (1 - math.sqrt(1 / 2)) / 2]),
        ("cosine", 0.5, [1 / 2, 1, 1, 1 / 2]),
    ],
)
def test_factors_of_a_run_of_4_steps(schedule: str, warmup: float, factors: list[float]) -> None:
    assert [learning_rate_factor(i, 4, warmup, schedule) for i in range(4)] == pytest.approx(factors)


@pytest.mark.parametrize(("schedule", "after"), [("constant", 1.0), ("linear", 0.0), ("cosine", 0.0)])
def test_after_its_end_a_schedule_stays_at_its_last_value(schedule: str, after: float) -> None:
    assert learning_rate_factor(10, 10, 0.1, schedule) == after
    assert learning_rate_factor(99, 10, 0.1, schedule) == after


@pytest.mark.parametrize("at", [[], [0], [3], [0, 1, 4], range(8)])
@pytest.mark.parametrize("is_tensor", [False, True])
def test_fused_sgd_steps_as_the_unfused_one_whatever_the_scaler_skips(at: Sequence[int], is_tensor: bool) -> None:
    """On CUDA it is used for FP32 parameters alone; here by the kernel for CPUs. One parameter gets gradients late."""

    def run(fused: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(37)) for _ in range(2)]
        optimizer = make_sgd(parameters, 0.1, 0.01, fused)
        assert optimizer.defaults["fused"] is (True if fused else None)
        if is_tensor and fused:  # as the loop has it under a schedule
            optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for step in range(8):
            used = parameters[: 1 if step < 2 else 2]
            loss = sum((p * torch.randn(37)).sum() for p in used) * (math.inf if step in at else 1.0)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        momenta = [optimizer.state[p].get("momentum_buffer") for p in parameters]
        return [*(p.detach() for p in parameters), *(torch.zeros(37) if m is None else m for m in momenta)]

    for fused, unfused in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(fused, unfused, rtol=1e-5, atol=1e-6)


runs = st.tuples(st.integers(1, 300), st.floats(0, 1), st.sampled_from(SCHEDULES))


@given(runs)
def test_factors_lie_in_0_to_1_rise_in_the_warm_up_and_never_after(run: tuple[int, float, str]) -> None:
    num_steps, warmup_frac, schedule = run
    factors = [learning_rate_factor(i, num_steps, warmup_frac, schedule) for i in range(num_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    warmup = round(warmup_frac * num_steps)
    rising, rest = factors[:warmup], factors[warmup:]
    assert all(a < b for a, b in pairwise(rising))
    assert all(a >= b for a, b in pairwise(rest))
    assert not rising or rising[-1] == 1
    assert not rest or rest[0] == 1


@given(runs, st.integers(0, 299))
def test_a_longer_constant_run_warms_up_more_slowly_and_nothing_else(run: tuple[int, float, str], step: int) -> None:
    num_steps, warmup_frac, _ = run
    short = learning_rate_factor(step, num_steps, warmup_frac, "constant")
    assert learning_rate_factor(step, 2 * num_steps, warmup_frac, "constant") <= short
