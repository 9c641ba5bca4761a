"""The first batch of a Lightning fit, watched to see which precision it runs in."""

from contextlib import ExitStack

import torch
from torch import nn

from trainables.adapters.lightning_precision import format_name, parameter_dtype
from trainables.products import MatrixFlops


class BatchWatch:
    """Counts the matrix FLOPs between two hooks; what goes wrong on the way harms no step."""

    def __init__(self) -> None:
        self._open: tuple[ExitStack, MatrixFlops, torch.device] | None = None

    def begin(self, device: torch.device) -> None:
        """Begins to count.

        Args:
            device: where the model runs.
        """
        stack = ExitStack()
        self._open = stack, stack.enter_context(MatrixFlops()), device

    @property
    def is_open(self) -> bool:
        """Whether it counts."""
        return self._open is not None

    def end(self, module: nn.Module) -> str | None:
        """What ran since :meth:`begin`, by name; ``None`` where there were no matrix products.

        Args:
            module: the model, for the dtype of its parameters.

        Raises:
            Exception: a product could not be counted, or the canary failed.
        """
        assert self._open is not None
        _, seen, device = self._open
        self.leave()
        return format_name(seen.by_format(device), parameter_dtype(module))

    def leave(self) -> None:
        """Stops counting, if it does."""
        if self._open is not None:
            (stack, *_), self._open = self._open, None
            stack.close()


def is_compiled(module: nn.Module) -> bool:
    """Whether a model, a part of it or one of its methods is compiled; functions elsewhere cannot be seen."""
    holders = (holder for part in module.modules() for holder in (part, *type(part).__mro__))
    values = (value for holder in holders for value in vars(holder).values())
    # Only what can be called: a configuration may answer to any attribute.
    return any(callable(value) and hasattr(value, "_torchdynamo_orig_callable") for value in values)
