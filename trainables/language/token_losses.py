"""Cross-entropy of each token in FP32 without an FP32 copy of all logits: of a large vocabulary they are gigabytes."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from trainables.outputs import IGNORED_LABEL

CPU_NUMBERS, GPU_NUMBERS = 1 << 18, 1 << 24
"""Logits that are computed with at once: what a core's cache holds, and what keeps a GPU busy."""


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The cross-entropy (N,) of each token in FP32; 0 where the label is to be ignored.

    Beside the logits themselves, a number for each token is kept for the backward pass, whose gradient has the logits'
    own format.

    Args:
        logits: (N, vocabulary) in any floating-point format.
        labels: (N,) int64.
    """
    found: torch.Tensor = _TokenLosses.apply(logits, labels)  # type: ignore[no-untyped-call]
    return found


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        kept, place = labels != IGNORED_LABEL, labels.clamp(min=0).unsqueeze(1)
        normalizers = torch.empty(len(labels), device=logits.device)
        picked = torch.empty_like(normalizers)
        for part in _parts(logits):
            rows = logits[part].float()
            normalizers[part] = rows.logsumexp(1)
            picked[part] = rows.gather(1, place[part]).squeeze(1)
        ctx.save_for_backward(logits, place, kept, normalizers)
        return (normalizers - picked) * kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, place, kept, normalizers = ctx.saved_tensors
        weight = (gradient * kept).unsqueeze(1)
        found = torch.empty_like(logits)
        for part in _parts(logits):
            rows = (logits[part].float() - normalizers[part].unsqueeze(1)).exp_()
            rows.scatter_add_(1, place[part], rows.new_full((len(rows), 1), -1.0))
            found[part] = rows.mul_(weight[part])
        return found, None


def _parts(logits: torch.Tensor) -> list[slice]:
    num_rows, vocabulary = logits.shape
    size = max(1, (GPU_NUMBERS if logits.is_cuda else CPU_NUMBERS) // vocabulary)
    return [slice(start, start + size) for start in range(0, num_rows, size)]
