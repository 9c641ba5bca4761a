"""Which attention a model computes, where PyTorch's fused one would not keep to the precision."""

from typing import Any

import torch
from torch import nn

DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
"""Names that architectures have for the dropout of their attention."""


def settle_attention(model: nn.Module) -> tuple[str, ...]:
    """Has a model with dropout in its attention compute it step by step where there is no GPU.

    There PyTorch has no fused kernel with dropout, and what it does instead computes part of the backward pass in FP32
    under BF16 autocast (PyTorch 2.13): 5 % of MiniLM's matrix FLOPs at 128 tokens and 18 % at 512. Step by step all of
    them run in BF16, in about the same time. All arms of a comparison do the same.

    Args:
        model: one of transformers'; changed in place.

    Returns:
        what a user should know, a sentence each.
    """
    whole: Any = model
    config = whole.config.get_text_config()
    drops = any((getattr(config, name, None) or 0) > 0 for name in DROPOUTS)
    if not drops or torch.cuda.is_available() or config._attn_implementation == "eager":
        return ()
    whole.set_attn_implementation("eager")
    return ("attention is not fused, since with dropout PyTorch's is not on CPUs, and leaves part of BF16 in FP32",)
