"""Kernel routes: ways for PyTorch to compute the same step in the same precision by other kernels. Imports no torch."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

DEFAULT, CHANNELS_LAST = "default", "channels_last"

ROUTES = (DEFAULT, CHANNELS_LAST)
"""As PyTorch takes it by itself; and with the weights of two-dimensional convolutions, and so all that they compute,
stored with the channels last, as PyTorch's performance tuning guide has it: much faster for some, slower for others."""


def routes_of(model: "nn.Module") -> tuple[str, ...]:
    """The routes that may differ for a model, the default first."""
    return ROUTES if any(parameter.dim() == 4 for parameter in model.parameters()) else (DEFAULT,)


def take_route(route: str, model: "nn.Module") -> None:
    """Has a model's steps go by a route from now on; its weights keep their values."""
    if route == CHANNELS_LAST:
        import torch

        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
