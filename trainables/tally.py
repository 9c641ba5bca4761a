"""What the steps of an interval came to, kept on the device so that no step waits for it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

PENDING = 100
"""Losses are summed and looked through so many at a time: a few operations then, none in a step."""

_NEVER = 2**53
"""A step that no run reaches, and that FP64 holds exactly."""


@dataclass(frozen=True)
class Counts:
    """A tally as the host knows it after it has waited for the device.

    Args:
        loss_sum: of the steps that were applied.
        num_nonfinite: steps whose loss, without any scale, was infinite or NaN.
        first_nonfinite: the first of them, counted from 1 at the run's start; ``None`` where there is none.
        lowest_scale: lowest loss scale of the interval; infinite without a scaler.
    """

    loss_sum: float
    num_nonfinite: int
    first_nonfinite: int | None
    lowest_scale: float


class Tally:
    """Sums losses and counts those that are not finite.

    Losses are taken in portions that depend on the number of steps alone, so that an interval that is saved and taken
    up again sums to the same bit.

    Args:
        device: of the losses.
        step: steps of the run before the interval.
    """

    def __init__(self, device: torch.device, step: int = 0) -> None:
        self._device, self._step = device, step
        self._pending: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        self._taken = torch.tensor([0.0, 0.0, _NEVER], dtype=torch.float64, device=device)
        self._lowest_scale = torch.full((), math.inf, device=device)

    def add(self, loss: torch.Tensor, skipped: torch.Tensor | None = None, scale: torch.Tensor | None = None) -> None:
        """Takes a step's loss.

        Args:
            loss: detached; its memory is kept for some steps.
            skipped: whether a scaler left the step out, a boolean; its loss then counts into no sum.
            scale: the loss scale after the step.
        """
        self._pending.append((loss, skipped))
        if scale is not None:
            torch.minimum(self._lowest_scale, scale, out=self._lowest_scale)
        if len(self._pending) == PENDING:
            self._taken = self._with_pending()
            self._step += PENDING
            self._pending = []

    def read(self) -> Counts:
        """What there is so far; waits for the device."""
        loss_sum, num, first, lowest = torch.cat([self._with_pending(), self._lowest_scale.double().view(1)]).tolist()
        return Counts(loss_sum, int(num), int(first) if first < _NEVER else None, lowest)

    def _with_pending(self) -> torch.Tensor:
        """(sum of losses, number of those not finite, the first such step), the pending losses among them."""
        if not self._pending:
            return self._taken
        losses = torch.stack([loss for loss, _ in self._pending]).flatten().double()
        bad = ~losses.isfinite()
        if any(skipped is not None for _, skipped in self._pending):
            losses = losses.masked_fill(self._skipped(), 0.0)
        steps = torch.arange(self._step + 1, self._step + 1 + len(losses), dtype=torch.float64, device=self._device)
        first = steps.masked_fill(~bad, _NEVER).min()
        total, num, earliest = self._taken.unbind()
        return torch.stack([total + losses.sum(), num + bad.sum(), torch.minimum(earliest, first)])

    def _skipped(self) -> torch.Tensor:
        """Which of the pending steps were left out; a step without a scaler never is."""
        never = torch.zeros((), dtype=torch.bool, device=self._device)
        return torch.stack([never if skipped is None else skipped for _, skipped in self._pending])

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data; the pending losses as they are."""
        losses = torch.stack([loss for loss, _ in self._pending]).flatten() if self._pending else None
        skipped = self._skipped() if self._pending else None
        taken = {"step": self._step, "taken": self._taken, "lowest_scale": self._lowest_scale}
        return {**taken, "losses": losses, "skipped": skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what :meth:`state_dict` gave."""
        self._step = state["step"]
        self._taken, self._lowest_scale = state["taken"].to(self._device), state["lowest_scale"].to(self._device)
        if state["losses"] is not None:
            pending = zip(state["losses"].to(self._device), state["skipped"].to(self._device), strict=True)
            self._pending = list(pending)
