"""The learning rate of each step: our schedule, a pure function of the applied steps, or the task's own scheduler."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from trainables.hyperparameters import Hyperparameters
from trainables.optim import learning_rate_factor
from trainables.task import Scheduler


class Schedule:
    """Sets an optimizer's learning rate before each step.

    Args:
        optimizer: at its peak rates.
        hyper: names the schedule.
        num_steps: of the whole run; ``None``: the rate stays at its start.
        device: of the rates where only it knows how many steps were applied, as with a loss scaler; ``None``: the host
            knows.
        scheduler: the task's own; ``None`` without one.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        hyper: Hyperparameters,
        num_steps: int | None,
        device: torch.device | None,
        scheduler: Scheduler | None,
    ) -> None:
        self._optimizer, self._scheduler = optimizer, scheduler
        self._base_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._factors = _factors(hyper, num_steps)
        self._device_factors: torch.Tensor | None = None
        if device is not None and self._factors:
            self._device_factors = torch.tensor(self._factors, device=device)
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=device)

    def set_rate(self, step: int, skipped: torch.Tensor) -> None:
        """Sets the rate of the next step.

        Args:
            step: steps so far.
            skipped: those of them that a scaler left out.
        """
        if self._scheduler is not None and step:
            self._scheduler.step()
        if self._device_factors is not None:
            # Indexing with a tensor of no dimensions would wait for the device.
            factor = self._device_factors.take((step - skipped).clamp(max=len(self._factors) - 1))
            for group, base in zip(self._optimizer.param_groups, self._base_rates, strict=True):
                group["lr"].copy_(base * factor)
        elif self._factors:
            now = self._factors[min(step, len(self._factors) - 1)]
            for group, base in zip(self._optimizer.param_groups, self._base_rates, strict=True):
                group["lr"] = base * now

    def state_dict(self) -> dict[str, Any] | None:
        """What a scheduler of the task's own goes on from; ours needs nothing."""
        if self._scheduler is None:
            return None
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        return {"scheduler": self._scheduler.state_dict(), "rates": rates}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Goes on from what :meth:`state_dict` gave, at its rates."""
        if self._scheduler is None or state is None:
            return
        self._scheduler.load_state_dict(state["scheduler"])
        for group, rate in zip(self._optimizer.param_groups, state["rates"], strict=True):
            group["lr"] = rate


def _factors(hyper: Hyperparameters, num_steps: int | None) -> list[float]:
    """The learning rate's factor at every step; empty where it never changes."""
    if num_steps is None or (hyper.lr_schedule == "constant" and round(hyper.warmup_frac * num_steps) == 0):
        return []
    return [learning_rate_factor(i, num_steps, hyper.warmup_frac, hyper.lr_schedule) for i in range(num_steps)]
