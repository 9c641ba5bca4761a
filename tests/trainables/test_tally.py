"""Losses summed and looked through on the device, against the same arithmetic by hand."""

import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from trainables import loop as loop_module
from trainables import tally as tally_module
from trainables.loop import Loop
from trainables.tally import Tally, has_collapsed
from trainables.task import Batch, Task

CPU = torch.device("cpu")
PORTION = 4
"""Losses are taken in so many here, so that short lists fill several portions."""

STEPS = st.lists(st.tuples(st.floats(width=32) | st.just(math.nan), st.booleans()), max_size=30)


@pytest.fixture(scope="module")
def short_portions() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally_module, "PENDING", PORTION)
        yield


def fill(tally: Tally, steps: list[tuple[float, bool]], scaled: bool) -> None:
    for index, (loss, skipped) in enumerate(steps):
        flag = torch.tensor(skipped) if scaled else None
        tally.add(torch.tensor(loss), flag, torch.tensor(2.0**-index) if scaled else None)


@pytest.mark.usefixtures("short_portions")
@given(steps=STEPS, before=st.integers(0, 10**9), scaled=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_tally_is_what_python_counts(steps: list[tuple[float, bool]], before: int, scaled: bool) -> None:
    tally = Tally(CPU, before)
    fill(tally, steps, scaled)
    found = tally.read()
    bad = [index for index, (loss, _) in enumerate(steps, before + 1) if not math.isfinite(loss)]
    assert (found.num_nonfinite, found.first_nonfinite) == (len(bad), bad[0] if bad else None)
    assert found.lowest_scale == (2.0 ** -(len(steps) - 1) if scaled and steps else math.inf)
    applied = [loss for loss, skipped in steps if not (scaled and skipped)]
    if all(math.isfinite(loss) for loss in applied):
        largest = max((abs(loss) for loss in applied), default=0.0)
        assert found.loss_sum == pytest.approx(math.fsum(applied), rel=1e-9, abs=1e-12 * largest)
    else:
        assert not math.isfinite(found.loss_sum)


@pytest.mark.usefixtures("short_portions")
@given(steps=STEPS, cut=st.integers(0, 30), scaled=st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_tally_that_was_saved_goes_on_to_the_same_bit(
    steps: list[tuple[float, bool]], cut: int, scaled: bool
) -> None:
    whole, first, second = Tally(CPU), Tally(CPU), Tally(CPU, 99)
    fill(whole, steps, scaled)
    fill(first, steps[:cut], scaled)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    first.read()  # looking changes nothing
    second.load_state_dict(torch.load(file, weights_only=True))
    for tally in (first, second):
        fill(tally, steps[cut:], scaled)
        a, b = tally.read(), whole.read()
        assert (a.num_nonfinite, a.first_nonfinite) == (b.num_nonfinite, b.first_nonfinite)
        assert a.loss_sum == b.loss_sum or (math.isnan(a.loss_sum) and math.isnan(b.loss_sum))


class Planted:
    """Cross-entropy that is multiplied at chosen steps: with NaN, or so that its scaled gradients overflow."""

    def __init__(self, factor: float, at: range) -> None:
        self.factor, self.at, self.calls = factor, at, 0

    def __call__(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        self.calls += 1
        loss = cross_entropy(outputs.float(), batch[1])
        return loss * self.factor if self.calls in self.at else loss


@pytest.mark.parametrize("precision", ["fp32", "fp16-mixed"])
def test_training_ends_soon_after_a_loss_that_is_not_finite(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(loop_module, "LOOK_EVERY_S", 0.0)
    loop = make_loop(tiny_task(loss=Planted(math.nan, range(7, 8))), precision, batch_size=16)
    progress = loop.train(1000)
    assert (loop.step, progress.num_nonfinite, progress.first_nonfinite) == (7, 1, 7)
    assert progress.applied_steps == (7 if precision == "fp32" else 6)
    assert math.isnan(progress.train_loss) is (precision == "fp32")  # the scaler left the step out


def test_training_ends_when_the_scale_has_collapsed(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 65536 the scale passes 1 with the 17th overflow in a row; one that recovers goes on."""
    monkeypatch.setattr(loop_module, "LOOK_EVERY_S", 0.0)
    recovers = make_loop(tiny_task(loss=Planted(1e38, range(3, 13))), "fp16-mixed", batch_size=16)
    progress = recovers.train(30)
    assert (recovers.step, progress.applied_steps, progress.num_nonfinite) == (30, 20, 0)
    assert (progress.loss_scale, progress.lowest_loss_scale) == (64.0, 64.0)
    collapses = make_loop(tiny_task(loss=Planted(1e38, range(3, 1000))), "fp16-mixed", batch_size=16)
    progress = collapses.train(1000)
    assert (collapses.step, progress.applied_steps) == (2 + 17, 2)
    assert (progress.loss_scale, progress.num_nonfinite) == (0.5, 0)
    assert progress.has_collapsed


def test_a_single_overflow_at_a_low_scale_is_no_collapse(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though none of the steps since the loop last looked was applied."""
    monkeypatch.setattr(loop_module, "LOOK_EVERY_S", 0.0)
    loop = make_loop(tiny_task(loss=Planted(1e38, range(5, 6))), "fp16-mixed", batch_size=16)
    loop.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    progress = loop.train(5)
    assert (progress.applied_steps, progress.loss_scale, progress.has_collapsed) == (4, 0.5, False)


@pytest.mark.parametrize(
    ("scale", "num_left_out", "collapsed"),
    [(None, 0, False), (0.0, 0, True), (0.5, 1, False), (0.5, 9, False), (0.5, 10, True), (1.0, 1000, False)],
)
def test_a_scale_below_1_is_a_collapse_from_ten_left_out_steps_in_a_row(
    scale: float | None, num_left_out: int, collapsed: bool
) -> None:
    assert has_collapsed(scale, num_left_out) is collapsed


def test_left_out_steps_are_counted_over_intervals_of_a_step_and_over_a_resumption(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop]
) -> None:
    """One at a healthy scale of 0.5, then ten."""
    loss = Planted(1e38, [3, *range(5, 100)])
    loop, other = (make_loop(tiny_task(loss=loss), "fp16-mixed", batch_size=16) for _ in range(2))
    for each in (loop, other):
        each.scaler = torch.amp.GradScaler("cpu", init_scale=0.5)
    assert [loop.train(1).has_collapsed for _ in range(8)] == [False] * 8
    other.load_state_dict(loop.state_dict())
    assert [other.train(1).has_collapsed for _ in range(6)] == [False] * 5 + [True]
    assert other.train(3).has_collapsed


def test_a_scale_of_zero_is_a_collapse_whatever_was_applied_before(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop]
) -> None:
    """PyTorch looks for overflows before it unscales, so that one step more is applied, with 0 times infinity."""
    loop = make_loop(tiny_task(), "fp16-mixed", batch_size=16)
    assert loop.scaler is not None
    update = loop.scaler.update
    progress = loop.train(4, lambda: update(0.0) if loop.step == 2 else None)
    assert (progress.applied_steps, progress.loss_scale, progress.has_collapsed) == (3, 0.0, True)
    assert (progress.num_nonfinite, progress.first_nonfinite) == (1, 4)


def test_the_lowest_scale_of_an_interval_is_kept(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop]
) -> None:
    loop = make_loop(tiny_task(loss=Planted(1e38, range(2, 4))), "fp16-mixed", batch_size=16)
    assert loop.scaler is not None
    loop.scaler.set_growth_interval(1)  # grows after every step that is applied
    assert loop.train(1).lowest_loss_scale == 2.0 * 65536
    progress = loop.train(4)  # two overflows down, two steps up
    assert (progress.lowest_loss_scale, progress.loss_scale) == (32768.0, 131072.0)
    assert make_loop(tiny_task()).train(1).lowest_loss_scale is None


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_optimizers_count_the_steps_that_were_applied(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], optimizer: str
) -> None:
    """Fused ones run in skipped steps too: their own counters say that nothing came of it."""
    loop = make_loop(tiny_task(loss=Planted(1e38, range(4, 7))), "fp16-mixed", batch_size=16, optimizer=optimizer)
    ran: list[int] = []
    loop.optimizer.register_step_post_hook(lambda *_: ran.append(1))
    progress = loop.train(10)
    assert (loop.step, progress.applied_steps) == (10, 7)
    assert len(ran) == (7 if optimizer == "sgd" else 10)
    if optimizer != "sgd":
        assert {float(state["step"]) for state in loop.optimizer.state.values()} == {7.0}


def test_a_loss_that_is_a_view_does_not_keep_its_base(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop]
) -> None:
    def loss(outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return cross_entropy(outputs.float(), batch[1], reduction="none").mean().expand(1000).clone()[3]

    loop, tally = make_loop(tiny_task(loss=loss), batch_size=16), Tally(CPU)
    loop.train_step(tally)
    assert tally._pending[0][0].untyped_storage().nbytes() == 4


def moved(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], start: str, end: str, **state: Any
) -> tuple[Loop, Loop]:
    """A loop after 3 steps and one of another precision that took up its state, before any step."""
    before, after = (make_loop(tiny_task(), precision, batch_size=16) for precision in (start, end))
    before.train(2)
    before.train_step(Tally(CPU))
    after.load_state_dict(before.state_dict() | state)
    return before, after


@pytest.mark.parametrize("start", ["fp32", "bf16-mixed", "fp16-mixed", "bf16-true"])
@pytest.mark.parametrize("end", ["fp32", "bf16-mixed", "fp16-mixed", "bf16-true"])
def test_a_state_moves_to_another_precision(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], start: str, end: str
) -> None:
    before, after = moved(tiny_task, make_loop, start, end)
    dtype = torch.bfloat16 if end == "bf16-true" else torch.float32
    for old, new in zip(before.model.parameters(), after.model.parameters(), strict=True):
        assert new.dtype is dtype
        assert torch.equal(old.to(dtype), new)
    progress = after.train(1)
    assert math.isfinite(progress.train_loss)
    assert (progress.applied_steps, progress.loss_scale) == (4, 65536.0 if end == "fp16-mixed" else None)
    for state in after.optimizer.state.values():
        assert {state[name].dtype for name in ("exp_avg", "exp_avg_sq")} == {dtype}
        assert (state["step"].dtype, float(state["step"])) == (torch.float32, 4.0)


@pytest.mark.parametrize(
    "scaler", [None, {}, {"scale": 0.0}, {"scale": math.nan}, {"scale": math.inf}, {"scale": 512.0}]
)
def test_a_scaler_begins_anew_where_the_state_has_no_scale_that_works(
    tiny_task: Callable[..., Task], make_loop: Callable[..., Loop], scaler: dict[str, float] | None
) -> None:
    """An empty state is that of a scaler that was off."""
    whole = {"growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 7}
    state = {**scaler, **whole} if scaler else scaler
    _, after = moved(tiny_task, make_loop, "bf16-mixed", "fp16-mixed", scaler=state)
    assert after.train(1).loss_scale == (512.0 if scaler == {"scale": 512.0} else 65536.0)
