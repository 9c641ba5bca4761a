"""Low-rank adapters (LoRA) by the library peft, in models of Hugging Face's transformers.

Source:
    Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685.
"""

import importlib
import warnings
from collections.abc import Set as AbstractSet
from typing import Any

from torch import nn

from trainables.loading import TaskError


def add_lora(model: Any, rank: int, alpha: float, dropout: float, new: AbstractSet[str] = frozenset()) -> None:
    """Freezes a model, and trains low-rank updates of its linear layers and all of its head instead.

    The head is what lies outside of the pretrained part; the vocabulary's projection of a language model is none.

    Args:
        model: of transformers; changed in place, and of the same type as before.
        rank: of the updates.
        alpha: over ``rank`` is what they are multiplied with.
        dropout: share of their inputs that is dropped in training.
        new: names of parameters that were not pretrained, which are trained, too.

    Raises:
        TaskError: peft is not installed, or finds no linear layer.
    """
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise TaskError(f"lora_rank: needs peft, got {error}; pip install 'ampsweep[lora]'") from error
    trained = new | _head(model)
    targets = _linear_layers(model, trained)
    if not targets:
        raise TaskError(f"lora_rank: needs a model with linear layers, got {type(model).__name__}; leave it out")
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out")  # which it finds out itself for each layer
        peft.inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if name in trained:
            parameter.requires_grad_(True)


def _head(model: Any) -> set[str]:
    """Names of the parameters of a task's head."""
    is_language_model = model.get_output_embeddings() is not None
    if model.base_model is model or is_language_model:
        return set()
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) not in inside}


def _linear_layers(model: Any, trained: AbstractSet[str]) -> list[str]:
    """Names of the layers that are adapted: all linear ones that are neither trained nor project to the vocabulary."""
    conv1d = importlib.import_module("transformers.pytorch_utils").Conv1D  # GPT-2's name for a linear layer
    output = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | conv1d) and module is not output and f"{name}.weight" not in trained
    ]
