"""A model whose gradients are averaged over the workers of a trial while they are computed."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainables.task import Batch


class Joined:
    """A model in ``DistributedDataParallel``; it stays as it is, and may be called as before.

    Args:
        model: with the same weights on all workers.
        loss_of: a batch's loss, by the model in training.
        has_unused: whether there are parameters that a step leaves without a gradient, which has to be looked for.
    """

    def __init__(self, model: nn.Module, loss_of: Callable[[Batch], torch.Tensor], has_unused: bool) -> None:
        self._replica = DistributedDataParallel(
            _LossOf(model, loss_of), find_unused_parameters=has_unused, gradient_as_bucket_view=True, init_sync=False
        )

    def loss(self, batch: Batch, is_last: bool) -> torch.Tensor:
        """A micro-batch's loss.

        Args:
            batch: this worker's share of the micro-batch.
            is_last: whether it is a step's last one, whose backward averages what has come together.
        """
        self._replica.require_backward_grad_sync = is_last  # as its ``no_sync`` does
        return self._replica(batch)  # type: ignore[no-any-return]


class _LossOf(nn.Module):
    def __init__(self, model: nn.Module, loss_of: Callable[[Batch], torch.Tensor]) -> None:
        super().__init__()
        self.model = model
        self._loss_of = loss_of

    def forward(self, batch: Batch) -> torch.Tensor:
        return self._loss_of(batch)
