"""What the steps of an interval came to, kept on the device so that no step waits for it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from trainables.team import ALONE, Team

PENDING = 100
"""Losses are summed and looked through so many at a time: a few operations then, none in a step."""

_NEVER = 2**53
"""A step that no run reaches, and that FP64 holds exactly."""


LEFT_OUT_IN_A_ROW = 10
"""Steps that a scaler leaves out one after the other until no large gradient explains it.

Each halves the scale: gradients would be 1,000 times what they were when the last step was applied. A scale below 1 may
be healthy, where they are large throughout, and leaves a step out now and then, since it is raised every 2,000 steps.
"""


def has_collapsed(scale: float | None, num_left_out: int) -> bool:
    """Whether the loss scale has come to nothing: it is 0, or has been brought below 1 and no step is applied any more.

    Args:
        scale: after the last step; ``None`` without a scaler.
        num_left_out: the last steps, all of which the scaler left out.
    """
    return scale is not None and (scale == 0 or (scale < 1 and num_left_out >= LEFT_OUT_IN_A_ROW))


class Before(NamedTuple):
    """Where a loop stood: its steps, and those of them that were applied."""

    step: int
    applied_steps: int


@dataclass(frozen=True)
class Counts:
    """A tally as the host knows it after it has waited for the device.

    Args:
        loss_sum: of the steps that were applied.
        num_nonfinite: steps whose loss, without any scale, was infinite or NaN.
        first_nonfinite: the first of them, counted from 1 at the run's start; ``None`` where there is none.
        lowest_scale: lowest loss scale of the interval; infinite without a scaler.
        waited_s: seconds that the host spent on getting batches.
    """

    loss_sum: float
    num_nonfinite: int
    first_nonfinite: int | None
    lowest_scale: float
    waited_s: float = 0.0


class Tally:
    """Sums losses and counts those that are not finite.

    Losses are taken in portions that depend on the number of steps alone, so that an interval that is saved and taken
    up again sums to the same bit.

    Args:
        device: of the losses.
        step: steps of the run before the interval.
        team: whose workers' losses, each over its share of a batch, come to one; they read, save and restore together.

    ``waited_s`` are the seconds that the host spent on getting the interval's batches, added by the loop.
    """

    def __init__(self, device: torch.device, step: int = 0, team: Team = ALONE) -> None:
        self._device, self._step, self._team = device, step, team
        self._pending: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        self._num_common = 0  # of the pending losses: all workers', from before the trial was saved
        self._taken: torch.Tensor | None = None
        self._lowest_scale: torch.Tensor | None = None
        self.waited_s = 0.0

    def add(self, loss: torch.Tensor, skipped: torch.Tensor | None = None, scale: torch.Tensor | None = None) -> None:
        """Takes a step's loss.

        Args:
            loss: detached; its memory is kept for some steps.
            skipped: whether a scaler left the step out, a boolean; its loss then counts into no sum.
            scale: the loss scale after the step.
        """
        self._pending.append((loss, skipped))
        if scale is not None:
            lowest = self._lowest_scale
            self._lowest_scale = scale.clone() if lowest is None else torch.minimum(lowest, scale, out=lowest)
        if len(self._pending) == PENDING:
            self._take()

    def read(self) -> Counts:
        """What there is so far; waits for the device."""
        total, num, first = self._taken.tolist() if self._taken is not None else (0.0, 0, _NEVER)
        losses = self._losses().tolist() if self._pending else []
        skipped = self._skipped().tolist() if self._is_scaled else [False] * len(losses)
        bad = [step for step, loss in enumerate(losses, self._step + 1) if not math.isfinite(loss)]
        return Counts(
            total + sum(loss for loss, left_out in zip(losses, skipped, strict=True) if not left_out),
            int(num) + len(bad),
            int(first) if first < _NEVER else next(iter(bad), None),
            math.inf if self._lowest_scale is None else float(self._lowest_scale),
            self.waited_s,
        )

    def _take(self) -> None:
        """Takes the pending losses into (sum of losses, number of those not finite, the first such step)."""
        losses = self._losses().double()
        bad = ~losses.isfinite()
        if self._is_scaled:
            losses = losses.masked_fill(self._skipped(), 0.0)
        steps = torch.arange(self._step + 1, self._step + 1 + len(losses), dtype=torch.float64, device=self._device)
        found = [losses.sum(), bad.sum().double(), steps.masked_fill(~bad, _NEVER).min()]
        if self._taken is not None:
            total, num, first = self._taken.unbind()
            found = [total + found[0], num + found[1], torch.minimum(first, found[2])]
        self._taken, self._step, self._pending = torch.stack(found), self._step + len(losses), []
        self._num_common = 0

    def _losses(self) -> torch.Tensor:
        losses, common = torch.stack([loss for loss, _ in self._pending]).flatten(), self._num_common
        return torch.cat([losses[:common], self._team.mean(losses[common:])]) if self._team.size > 1 else losses

    @property
    def _is_scaled(self) -> bool:
        return any(skipped is not None for _, skipped in self._pending)

    def _skipped(self) -> torch.Tensor:
        """Which of the pending steps were left out; a step without a scaler never is."""
        never = torch.zeros((), dtype=torch.bool, device=self._device)
        return torch.stack([never if skipped is None else skipped for _, skipped in self._pending])

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data; the pending losses as they are."""
        pending = {"losses": self._losses(), "skipped": self._skipped()} if self._pending else None
        kept = {"step": self._step, "taken": self._taken, "lowest_scale": self._lowest_scale, "pending": pending}
        return {**kept, "waited_s": self.waited_s}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what :meth:`state_dict` gave."""
        self._step, self._taken, self._lowest_scale = state["step"], state["taken"], state["lowest_scale"]
        self.waited_s = state.get("waited_s", 0.0)  # which states of earlier versions lack
        if self._taken is not None:
            self._taken = self._taken.to(self._device)
        if self._lowest_scale is not None:
            self._lowest_scale = self._lowest_scale.to(self._device, copy=True)  # it changes in place
        if state["pending"] is not None:
            losses, skipped = (state["pending"][name].to(self._device) for name in ("losses", "skipped"))
            self._pending = list(zip(losses, skipped, strict=True))
            self._num_common = len(self._pending)
