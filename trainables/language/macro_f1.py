"""Macro F1 of a classifier, which many classes of unequal size are compared by."""

from collections.abc import Iterable

import torch


class MacroF1:
    """The mean F1 of all classes that a label or a prediction names, with torchmetrics' methods.

    Args:
        num_classes: as many as logits of an example.
    """

    def __init__(self, num_classes: int) -> None:
        self._hits, self._named = (torch.zeros(num_classes, dtype=torch.int64) for _ in range(2))

    def to(self, device: torch.device | str) -> "MacroF1":
        """The same one, where tensors of the device can be taken in."""
        self._hits, self._named = self._hits.to(device), self._named.to(device)
        return self

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Takes in a batch's logits (B, classes) and labels (B,)."""
        predicted = logits.argmax(-1)
        named = torch.cat((labels, predicted))
        # Added in place, since to count or to pick would wait for the device.
        self._hits.index_add_(0, labels, (predicted == labels).long())
        self._named.index_add_(0, named, torch.ones_like(named))

    def merge_state(self, metrics: Iterable["MacroF1"]) -> None:
        """Takes in what others have taken in."""
        for metric in metrics:
            self._hits, self._named = self._hits + metric._hits, self._named + metric._named

    def compute(self) -> torch.Tensor:
        """The mean, 0 to 1."""
        there = self._named > 0
        return (2 * self._hits[there] / self._named[there].double()).mean()
