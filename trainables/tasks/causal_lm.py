"""Training a language model to predict the next token: a pretrained one of Hugging Face's, or a small GPT on bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.data import Dataset, Subset

from trainables.adapters.small_gpt import new_gpt2
from trainables.language.attention import settle_attention
from trainables.language.cache import Array
from trainables.language.documents import PACKAGE
from trainables.language.files import Column, refuse
from trainables.language.inputs import check_sizes
from trainables.language.limits import check_vocabulary, positions
from trainables.language.models import adapt, load_model, load_tokenizer
from trainables.language.next_token import Perplexity, block_losses, next_token_loss, token_accuracy
from trainables.language.packing import END_OF_BYTES, Blocks, byte_tokens, join_blocks, packed_tokens
from trainables.language.settings import CAUSAL_LM, check_config
from trainables.task import Task

GENERATOR = "AutoModelForCausalLM"

VOCABULARY = 264
"""Tokens of the small GPT: bytes, the end of a document, and as many unused ones as make kernels fast."""

DEFAULT_CONTEXT = 64
MOST_CONTEXT = 512
"""Tokens of a block where nothing is said: of the small GPT, and at most of a pretrained model."""

VAL_SHARE = 0.1


def build(config: Mapping[str, Any]) -> Task:
    """The task for a configuration.

    Args:
        config: ``model``: a folder or a name on the hub; without it a GPT on bytes with ``num_layers`` (default 2),
            ``hidden`` (256) and ``num_heads`` (4), which a pretrained one has itself. ``train_file`` and ``val_file``:
            without the second the last tenth of the first; without both the sources of Python's own library.
            ``text_column``; ``context``: tokens of a block (64; of a pretrained model as many as it takes, at most
            512); ``val_blocks``: blocks of the validation set at most, from all over it; and what
            :func:`trainables.language.models.adapt` reads.

    Raises:
        TaskError: the model or the data cannot be used; one line that says why.
    """
    check_config(config, CAUSAL_LM)
    check_sizes(config)
    place = config.get("model")
    if place is None:
        source, context = _byte_source(config), config.get("context", DEFAULT_CONTEXT)
        model = _small_gpt(config, context)
    else:
        tokenizer, model = load_tokenizer(place), load_model(GENERATOR, place)
        source = _token_source(config, tokenizer)
        context = _context_of(config, model)
        check_vocabulary(model, tokenizer, *source.parts)
    train_set, whole = _split(source, context)
    attention = settle_attention(model)
    val_set, remarks = _thinned(whole, config.get("val_blocks"))
    return Task(
        adapt(model, config),
        train_set,
        val_set,
        loss=next_token_loss,
        losses=block_losses,
        metrics={"token_accuracy": token_accuracy, "perplexity": Perplexity},
        collate=join_blocks,
        remarks=(*source.remarks, *remarks, *attention),
    )


@dataclass(frozen=True)
class _Source:
    """Packed tokens of the training file, and of the validation file where there is one."""

    parts: Sequence[Array]
    remarks: Sequence[str] = ()


def _places(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    named = [(field, config.get(field)) for field in ("train_file", "val_file")]
    if named[0][1] is None and named[1][1] is not None:
        refuse("train_file", "must be given along with val_file", "nothing", "name the training file")
    return [(field, place) for field, place in named if place is not None]


def _byte_source(config: Mapping[str, Any]) -> _Source:
    column: Column | None = config.get("text_column")
    places: list[tuple[str, str | None]] = [*_places(config)] or [("train_file", None)]
    found = [byte_tokens(place, field, column) for field, place in places]
    names = [place or f"sources of Python's own library ({PACKAGE})" for _, place in places]
    remarks = [f"{name}: {len(tokens):,} bytes" for name, tokens in zip(names, found, strict=True)]
    return _Source(found, remarks)


def _token_source(config: Mapping[str, Any], tokenizer: Any) -> _Source:
    if tokenizer.eos_token_id is None:
        got = type(tokenizer).__name__
        refuse("model", "needs a tokenizer with a token that ends a text (eos_token)", got, "set one and save it")
    places = _places(config)
    if not places:
        refuse("train_file", "must be given along with model", "nothing", "name a file with text")
    found = [packed_tokens(place, field, tokenizer, config.get("text_column")) for field, place in places]
    return _Source([tokens for tokens, _ in found], [remark for _, remarks in found for remark in remarks])


def _small_gpt(config: Mapping[str, Any], context: int) -> nn.Module:
    hidden, num_heads = config.get("hidden", 256), config.get("num_heads", 4)
    if hidden % num_heads:
        refuse("num_heads", f"must divide hidden ({hidden})", num_heads, "64 numbers a head are usual")
    return new_gpt2(VOCABULARY, END_OF_BYTES, context, config.get("num_layers", 2), hidden, num_heads)


def _context_of(config: Mapping[str, Any], model: nn.Module) -> int:
    most, asked = positions(model), config.get("context")
    if most is not None and asked is not None and asked > most:
        refuse("context", f"must be at most {most}, which the model has positions for", asked, "lower it")
    return int(asked or min(most or MOST_CONTEXT, MOST_CONTEXT))


def _split(source: _Source, context: int) -> tuple[Dataset[Any], Dataset[Any]]:
    """Blocks for training and validation: the last tenth of a single file, in whole blocks."""
    train = source.parts[0]
    least = 1 if len(source.parts) > 1 else 2
    for field, tokens in zip(("train_file", "val_file"), source.parts, strict=False):
        needed = least if tokens is train else 1
        if len(tokens) < needed * context:
            refuse(field, f"must hold at least {needed * context:,} tokens", f"{len(tokens):,}", "lower context")
    if len(source.parts) > 1:
        return Blocks(train, context), Blocks(source.parts[1], context)
    num_blocks = len(train) // context
    cut = (num_blocks - max(1, round(VAL_SHARE * num_blocks))) * context
    return Blocks(train[:cut], context), Blocks(train[cut:], context)


def _thinned(blocks: Dataset[Any], most: int | None) -> tuple[Dataset[Any], list[str]]:
    """At most that many of the blocks, at equal distances; and what a user should know of that."""
    num: int = len(blocks)  # type: ignore[arg-type]
    if most is None or num <= most:
        return blocks, []
    picked = Subset(blocks, [index * num // most for index in range(most)])
    return picked, [f"validation takes {most:,} of {num:,} blocks, from all over them (val_blocks)"]
