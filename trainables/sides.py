"""The two sides of a comparison: models in their precisions on a device, ready to be evaluated and timed."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from trainables.candidates import Candidate
from trainables.examples import DATA
from trainables.ladder import Precision
from trainables.loading import TaskError, describe
from trainables.memory import is_out_of_memory
from trainables.outputs import make_forward, to_device, upcast
from trainables.precision import autocast, numerics
from trainables.task import Batch


class Side:
    """A model ready to be evaluated in its precision.

    Args:
        name: what errors call it.
        candidate: its model is moved to the device and its precision's parameter dtype.
        precision: an entry of the ladder.
        device: where it runs.
    """

    def __init__(self, name: str, candidate: Candidate, precision: Precision, device: torch.device) -> None:
        self.name, self.place, self.precision, self.device = name, candidate.place, precision, device
        self.dtype = None if precision.parameters == "float32" else getattr(torch, precision.parameters)
        self.model = candidate.model.to(device=device, dtype=getattr(torch, precision.parameters)).eval()
        self._forward = make_forward(self.model)
        self._autocast = autocast(precision, device)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Its numeric settings, without gradients."""
        with numerics(self.precision), torch.no_grad():
            yield

    def take(self, batch: Batch) -> Batch:
        """A batch as this side gets it."""
        return to_device(batch, self.device, self.dtype)

    def __call__(self, batch: Batch) -> Any:
        """The outputs for a batch that it took, as the model gives them."""
        with self._autocast:
            return self._forward(batch)

    def outputs(self, batch: Batch) -> Any:
        """The same in FP32, in which all is scored.

        Raises:
            TaskError: the model fails on it.
        """
        try:
            return upcast(self(batch))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            condition = f"{DATA}: must fit {self.name}, whose forward fails on its first examples"
            raise TaskError(f"{condition}, got {describe(error)}; give data as this model takes it") from error

    def sizes(self) -> dict[str, int]:
        """Parameters in number, and parameters and buffers in bytes; what is shared counts once."""
        parameters, buffers = list(self.model.parameters()), list(self.model.buffers())
        return {
            "parameters": sum(each.numel() for each in parameters),
            "bytes": sum(each.nbytes for each in [*parameters, *buffers]),
        }


def both_sides(
    model: Candidate, baseline: Candidate, precisions: tuple[Precision, Precision], device: torch.device
) -> tuple[Side, Side]:
    """The two sides; a model that is given as both is copied, since its weights may be cast."""
    if model.model is baseline.model:
        baseline = Candidate(baseline.place, copy.deepcopy(baseline.model), baseline.task)
    return Side("MODEL", model, precisions[0], device), Side("BASELINE", baseline, precisions[1], device)
