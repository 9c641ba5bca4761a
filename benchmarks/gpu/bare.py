"""The loop that users write by hand, after PyTorch's recipe for automatic mixed precision."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.amp import GradScaler

from trainables.data import epoch_order
from trainables.hyperparameters import Hyperparameters
from trainables.ladder import Precision
from trainables.task import Task

BARE = ("fp32", "tf32", "bf16-mixed", "fp16-mixed")
"""Precisions that the recipe covers."""


class BareLoop:
    """The same model, data, optimizer and clipping as ours gets, and nothing else.

    Args:
        task: its data are tensors, and go to the device at once.
        hyper: of AdamW, and the batch.
        precision: one of :data:`BARE`, whose numerics the caller keeps in force.
        seed: of the data order.
        device: where it trains.
    """

    def __init__(self, task: Task, hyper: Hyperparameters, precision: Precision, seed: int, device: torch.device):
        self.model = task.model.to(device)
        self._loss, self._max_norm = task.loss, hyper.max_grad_norm
        self._tensors = [tensor.to(device) for tensor in task.train_set.tensors]  # type: ignore[attr-defined]
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=hyper.learning_rate, weight_decay=hyper.weight_decay, fused=True
        )
        narrow = precision.autocast
        self._autocast = torch.autocast(device.type, getattr(torch, narrow or "bfloat16"), enabled=narrow is not None)
        self._scaler = GradScaler(device.type, enabled=precision.scaled)
        self._batches = self._endless(hyper.batch_size, seed, device)

    def _endless(self, batch_size: int, seed: int, device: torch.device) -> Iterator[list[torch.Tensor]]:
        epoch = 0
        while True:
            order = epoch_order(len(self._tensors[0]), seed, epoch).to(device)
            yield from ([tensor[part] for tensor in self._tensors] for part in order.split(batch_size))
            epoch += 1

    def train(self, num_steps: int) -> None:
        """Runs steps; does not wait for the device."""
        self.model.train()
        for _ in range(num_steps):
            batch = next(self._batches)
            with self._autocast:
                loss = self._loss(self.model(*batch[:-1]), batch)
            self._scaler.scale(loss).backward()
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self._max_norm)
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._optimizer.zero_grad(set_to_none=True)
