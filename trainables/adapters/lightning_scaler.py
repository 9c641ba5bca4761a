"""Steps that a loss scaler skips, counted on the device without waiting for it."""

from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


def loss_scale(scaler: Any) -> float | None:
    """A loss scaler's scale; waits for the device.

    Args:
        scaler: a ``torch.amp.GradScaler`` or ``None``.

    Returns:
        the scale; ``None`` without a scaler, and where it is disabled, as CUDA's is on a CPU.
    """
    return float(scaler.get_scale()) if scaler is not None and scaler.is_enabled() else None


class SkippedSteps:
    """Counts the steps whose gradients the scaler found to overflow.

    Whether the optimizer was called says less: fused ones are called in spite of an overflow, and do nothing.
    """

    def __init__(self, count: int = 0) -> None:
        self._count: int | torch.Tensor = count
        self._hook: RemovableHandle | None = None

    def begin(self, scaler: Any, optimizer: Optimizer) -> None:
        """An optimizer is about to step; its gradients are there, and unscaled unless it does that itself.

        Args:
            scaler: a ``torch.amp.GradScaler`` or ``None``.
            optimizer: a plain one of torch.
        """
        self.end()
        if scaler is not None and scaler.is_enabled():
            # The public ways to learn of a skip either wait for the device or are wrong for fused optimizers.
            found = scaler._found_inf_per_device(optimizer)
            if found:
                self._add(list(found.values()))
            else:  # a fused one unscales in its step, for which the scaler hands it what it found
                self._hook = optimizer.register_step_pre_hook(self._from_step)

    def _from_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        found = getattr(optimizer, "found_inf", None)
        if found is not None:
            self._add([found])

    def _add(self, found: list[torch.Tensor]) -> None:
        """Counts one step if any device found an overflow."""
        most = torch.stack([each.squeeze().to(found[0].device) for each in found]).max()
        self._count = self._count + (most > 0)

    def end(self) -> None:
        """The step is over, or never came."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def total(self) -> int:
        """How many were skipped; waits for the device."""
        return int(self._count)
