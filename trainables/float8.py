"""FP8 linear layers through torchao, which takes seconds to import and so is imported only to convert a model."""

import dataclasses
import importlib.util

from torch import nn

LEAST_SIZE, MULTIPLE = 128, 16
"""Inputs and outputs of a layer that is converted: at least so many, and a multiple, as FP8 units need it.

Whether FP8 pays at a size is for the timing to say.

Source:
    nanochat's filter of layers. torchao's own (``_auto_filter_for_recipe``) leaves out more, by what an H100 gains: of
    BERT-large it would convert a third.
"""


def torchao_reason() -> str | None:
    """Why FP8 layers cannot be made here, or ``None`` if they can; imports nothing."""
    if importlib.util.find_spec("torchao") is None:
        return "FP8 needs torchao, which is not installed; pip install 'ampsweep[fp8]'"
    return None


def is_convertible(layer: nn.Module, name: str = "") -> bool:
    """Whether a layer computes in FP8 after conversion.

    Args:
        layer: subclasses of ``Linear`` stay as they are, since they may compute something else.
        name: of the layer; torchao hands it over.
    """
    if type(layer) is not nn.Linear:
        return False
    sizes = (layer.in_features, layer.out_features)
    return min(sizes) >= LEAST_SIZE and all(size % MULTIPLE == 0 for size in sizes)


def to_float8(model: nn.Module, scaling: str, emulate: bool = False) -> nn.Module:
    """A model whose convertible layers compute in FP8: its own modules, parameters and names of parameters.

    Args:
        model: is changed; where it is a linear layer itself, what is returned takes its place.
        scaling: ``tensorwise`` or ``rowwise``.
        emulate: round to FP8, but multiply in FP32.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    recipe = Float8LinearConfig.from_recipe_name(scaling)
    # The number of rows in a batch, too, must be a multiple: backward multiplies along it.
    config = dataclasses.replace(recipe, pad_inner_dim=True, emulate=emulate)
    converted: nn.Module = convert_to_float8_training(model, module_filter_fn=is_convertible, config=config)
    return converted
