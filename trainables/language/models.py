"""Models for tasks on text: pretrained ones, read once and copied for each trial, and what makes them cheaper to train.

A trial's copy is the same whatever the process did before: what is pretrained comes from the model's place, and what is
new, as the head of a classifier, is drawn from the trial's seed.
"""

import copy
import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.adapters.hugging_face import read_model, read_tokenizer
from trainables.adapters.peft import add_lora
from trainables.loading import TaskError

MOST_MODELS = 2
"""Models that a process keeps to copy from."""

MOST_BYTES = 1 << 30
"""Larger models are read for each trial, since a second one in memory costs more than reading it again."""


def load_model(auto_class_name: str, model: str, **overrides: Any) -> nn.Module:
    """A trial's own copy of a pretrained model, with its weights in FP32 on the CPU.

    Args:
        auto_class_name: of transformers: ``AutoModelForCausalLM``, ``AutoModelForSequenceClassification``, ...
        model: a local folder, or a name on the hub, which is asked only for what this machine has not.
        overrides: of the model's configuration, hashable, for example ``num_labels=3``.

    Returns:
        the model; parameters of a new head are drawn from PyTorch's generator, and named in ``new_parameters``.

    Raises:
        TaskError: no such model can be had; one line that says what to do.
    """
    place = str(Path(model).resolve()) if Path(model).is_dir() else model
    kept, new = _read_once(auto_class_name, place, tuple(sorted(overrides.items())), _stamp(place))
    if sum(parameter.nbytes for parameter in kept.parameters()) > MOST_BYTES:
        _read_once.cache_clear()
        made = kept
    else:
        made = copy.deepcopy(kept)
    _draw(made, new)
    made.new_parameters = new  # type: ignore[assignment]
    return made


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a pretrained model; read once in a process, and to be left as it is.

    Args:
        model: a local folder, or a name on the hub, which is asked only for what this machine has not.

    Raises:
        TaskError: no tokenizer can be had there; one line that says what to do.
    """
    place = str(Path(model).resolve()) if Path(model).is_dir() else model
    return _read_tokenizer_once(place, _stamp(place))


_read_tokenizer_once = functools.lru_cache(maxsize=MOST_MODELS)(lambda place, _stamp: read_tokenizer(place))


@functools.lru_cache(maxsize=MOST_MODELS)
def _read_once(
    auto_class: str, place: str, overrides: tuple[tuple[str, Any], ...], _stamp: object
) -> tuple[nn.Module, frozenset[str]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what reading draws must depend on nothing before, and move nothing after
        model, new = read_model(auto_class, place, dict(overrides))
    config: Any = model.config
    config.use_cache = False  # keys and values of past tokens serve generation alone
    return model, frozenset(new)


def _stamp(place: str) -> tuple[tuple[str, int, int], ...]:
    """What changes when the files of a folder do; nothing of a name on the hub."""
    found = [(entry.name, entry.stat()) for entry in sorted(Path(place).iterdir())] if Path(place).is_dir() else []
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)


@torch.no_grad()
def _draw(model: Any, new: frozenset[str]) -> None:
    """Draws new parameters as the architecture does; what else their modules hold stays."""
    for prefix, module in model.named_modules():
        own = {f"{prefix}.{name}".lstrip("."): tensor for name, tensor in module.named_parameters(recurse=False)}
        if not new & own.keys():
            continue
        kept = {name: tensor.clone() for name, tensor in own.items() if name not in new}
        for tensor in own.values():
            tensor.__dict__.pop("_is_hf_initialized", None)  # transformers leaves such tensors alone
        model._init_weights(module)
        for name, tensor in kept.items():
            own[name].copy_(tensor)


def adapt(model: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """The model as a configuration has it trained.

    Args:
        model: of :func:`load_model`; changed in place.
        config: ``lora_rank``: above 0 trains low-rank updates of all linear layers, and the head of a classifier, in
            place of the weights; ``lora_alpha`` (default twice the rank) over ``lora_rank`` scales them;
            ``lora_dropout``: 0 to below 1, default 0; ``gradient_checkpointing``: whether layers are computed again in
            the backward pass, which takes time and saves memory.

    Raises:
        TaskError: a value is not valid, peft is not installed, or the model does not know how.
    """
    rank = config.get("lora_rank") or 0
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 0:
        raise TaskError(f"lora_rank: must be a whole number of at least 0, got {rank!r}; 8 and 16 are usual, 0 is none")
    if rank:
        alpha, dropout = config.get("lora_alpha", 2 * rank), config.get("lora_dropout", 0.0)
        if not 0 < alpha < float("inf"):
            raise TaskError(f"lora_alpha: must be above 0, got {alpha!r}; once or twice lora_rank is usual")
        if not 0 <= dropout < 1:
            raise TaskError(f"lora_dropout: must be at least 0 and below 1, got {dropout!r}; 0 and 0.05 are usual")
        add_lora(model, rank, alpha, dropout, getattr(model, "new_parameters", frozenset()))
    if config.get("gradient_checkpointing"):
        _checkpoint_gradients(model)
    return model


def _checkpoint_gradients(model: Any) -> None:
    if not getattr(model, "supports_gradient_checkpointing", False):
        got = type(model).__name__
        raise TaskError(f"gradient_checkpointing: needs a model that supports it, got {got}; leave it out")
    # The reentrant kind needs inputs with gradients, which frozen embeddings do not give.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its new name is not known to earlier versions
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
