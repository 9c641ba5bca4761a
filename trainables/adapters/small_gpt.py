"""A small GPT-2 of Hugging Face's transformers with new weights, from sizes alone."""

import importlib
from typing import Any

from torch import nn

from trainables.loading import TaskError


def new_gpt2(vocabulary: int, end: int, context: int, num_layers: int, hidden: int, num_heads: int) -> nn.Module:
    """A GPT-2 whose weights are drawn from PyTorch's generator, in FP32 on the CPU.

    Dropout is left out: a run sees little text more than once, and on a CPU attention with dropout has no fused kernel.

    Args:
        vocabulary: number of tokens.
        end: the token that ends a document.
        context: tokens of a block at most.
        num_layers: transformer blocks.
        hidden: width, a multiple of ``num_heads``.
        num_heads: of attention.

    Raises:
        TaskError: transformers is not installed.
    """
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise TaskError(f"model: a GPT needs transformers, got {error}; pip install 'ampsweep[huggingface]'") from error
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=hidden,
        n_layer=num_layers,
        n_head=num_heads,
        activation_function="gelu_pytorch_tanh",  # the same function as GPT-2's own, in one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
        use_cache=False,
    )
    model = transformers.GPT2LMHeadModel(config)
    assert isinstance(model, nn.Module)
    return model
