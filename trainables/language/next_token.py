"""How well a language model predicts each next token of a block: loss, accuracy, perplexity."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import functional

from trainables.language.token_losses import token_losses
from trainables.outputs import IGNORED_LABEL, labels_of, logits_of
from trainables.scoring import right
from trainables.task import Batch


def next_token_loss(outputs: Any, batch: Batch) -> torch.Tensor:
    """The mean cross-entropy in FP32 over all tokens that have a predecessor in their block.

    Args:
        outputs: with logits (B, T, vocabulary).
        batch: with labels (B, T), the tokens themselves.
    """
    losses, counts = _by_block(outputs, batch)
    return losses.sum() / counts.sum()


def block_losses(outputs: Any, batch: Batch) -> torch.Tensor:
    """Each block's :func:`next_token_loss` (B,)."""
    losses, counts = _by_block(outputs, batch)
    return losses / counts


def _by_block(outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums and counts (B,) over each block's tokens."""
    logits, labels = logits_of(outputs), labels_of(batch)
    assert labels is not None
    # Labels move, since moving logits would copy them.
    ahead = functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
    losses = token_losses(logits.flatten(0, 1), ahead.flatten()).reshape(labels.shape)
    return losses.sum(1), (ahead != IGNORED_LABEL).sum(1)


def token_accuracy(outputs: Any, batch: Batch) -> torch.Tensor:
    """The share (B,) of each block's next tokens that have the largest logit."""
    sums, counts = right(outputs, batch, shift=1)
    return sums / counts


class Perplexity:
    """The exponential of the mean loss over all blocks, with torchmetrics' methods."""

    def __init__(self) -> None:
        self._sum, self._num_blocks = torch.zeros((), dtype=torch.float64), 0

    def to(self, device: torch.device | str) -> "Perplexity":
        """The same one, where tensors of the device can be taken in."""
        self._sum = self._sum.to(device)
        return self

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Takes in a batch's logits (B, T, vocabulary) and tokens (B, T)."""
        self._sum = self._sum + block_losses(logits, (labels, labels)).double().sum()
        self._num_blocks += len(labels)

    def merge_state(self, metrics: Iterable["Perplexity"]) -> None:
        """Takes in what others have taken in."""
        for metric in metrics:
            self._sum = self._sum + metric._sum
            self._num_blocks += metric._num_blocks

    def compute(self) -> torch.Tensor:
        """The perplexity, at least 1."""
        return (self._sum / self._num_blocks).exp()
