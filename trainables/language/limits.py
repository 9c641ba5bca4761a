"""What a pretrained model takes: how many tokens, and which."""

from typing import Any

from torch import nn

from trainables.language.cache import Array
from trainables.language.files import refuse
from trainables.outputs import vocabulary_size

_UNLIMITED = 10**9
"""Tokenizers that know no limit say a number beyond this."""


def most_tokens(asked: int | None, tokenizer: Any, model: nn.Module | None = None) -> int | None:
    """Tokens of a text at most: what was asked for, as far as tokenizer and model take it; ``None`` without any limit.

    Args:
        asked: by the user; ``None`` for as many as can be.
        tokenizer: one of transformers'.
        model: one of transformers'.

    Raises:
        TaskError: it leaves no room beside the tokenizer's own tokens.
    """
    limits = [asked, tokenizer.model_max_length, None if model is None else positions(model)]
    known = [limit for limit in limits if limit is not None and limit < _UNLIMITED]
    least = tokenizer.num_special_tokens_to_add() + 1
    if asked is not None and asked < least:
        refuse("max_length", f"must be at least {least}, since the tokenizer adds {least - 1}", asked, "raise it")
    return min(known, default=None)


def positions(model: nn.Module) -> int | None:
    """Tokens that the model has positions for; ``None`` where it counts none, or has no limit."""
    for name, module in model.named_modules():
        # Some begin to count behind the row of padding.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    config: Any = model.config
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def check_vocabulary(model: nn.Module, tokenizer: Any, *ids: Array) -> None:
    """Refuses a tokenizer of another model.

    Raises:
        TaskError: it gave tokens that the model does not know.
    """
    size = vocabulary_size(model)
    highest = max(int(each.max()) for each in ids)
    if size is not None and highest >= size:
        condition = f"must know all of its tokenizer's tokens, but has {size:,} and not"
        refuse(
            "model", condition, f"token {highest:,} of {type(tokenizer).__name__}", "take the tokenizer of the model"
        )
