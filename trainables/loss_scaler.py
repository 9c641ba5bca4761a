"""PyTorch's loss scaler, which also keeps the losses that pass through it and the steps that it left out."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer


class LossScaler(GradScaler):
    """A ``torch.amp.GradScaler`` for loops of one's own: it scales where a precision needs it, and else does nothing.

    Args:
        device: where the losses are.
        enabled: whether it scales.
    """

    def __init__(self, device: torch.device, enabled: bool) -> None:
        super().__init__(device.type, enabled=enabled)
        self._home = device
        self._loss: torch.Tensor | None = None
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        """Optimizer steps left out so far."""
        self.was_used = False
        """Whether it ever scaled a loss."""
        self.last_skipped: torch.Tensor | None = None

    def scale(self, outputs: Any) -> Any:
        """The loss, or several, scaled; call ``backward()`` on what this returns."""
        self.was_used = True
        for loss in [outputs] if isinstance(outputs, torch.Tensor) else list(outputs):
            self._keep(loss.detach())
        return super().scale(outputs)

    def _keep(self, loss: torch.Tensor) -> None:
        value = loss.float().sum()
        self._loss = value if self._loss is None else self._loss + value

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> float | None:
        """The optimizer's step, unless a gradient overflowed."""
        result: float | None = super().step(optimizer, *args, **kwargs)
        if self.is_enabled():
            found: Iterable[torch.Tensor] = self._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values()
            self.last_skipped = torch.stack([each.to(self._home).view(()) for each in found]).max() > 0
            self.skipped += self.last_skipped
        return result

    def take_loss(self) -> torch.Tensor | None:
        """The sum of the losses since this was called last, a tensor on the device; ``None`` where there were none."""
        loss, self._loss = self._loss, None
        return loss

    def take_skipped(self) -> torch.Tensor | None:
        """Whether the optimizer step since this was called last was left out; ``None`` without one or unscaled."""
        skipped, self.last_skipped = self.last_skipped, None
        return skipped
