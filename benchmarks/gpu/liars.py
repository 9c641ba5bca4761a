"""Libraries that change what FP32 means behind a trial's back: whether the effective precision notices.

Whether a lie took is judged apart from the canary that is to notice it: by the error of the model's outputs against
FP64, 1e-6 in IEEE FP32 and 3e-4 in TF32.
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.gpu.record import Row
from trainables.build import build_observed
from trainables.isolation import isolated
from trainables.ladder import LADDER
from trainables.loading import find_task
from trainables.loop import Loop
from trainables.precision import numerics
from trainables.spec import Budget, TrialSpec
from trainables.task import Task

ITEM = "liar"
NARROWED = 3e-5
"""Relative error above which products were narrower than FP32."""


@dataclass(frozen=True)
class Liar:
    """A library that sets something.

    Args:
        asked: the precision of the trial.
        says: what it does, as tables show it.
        where: ``"build"``, ``"forward"`` (and leaves it so) or ``"around forward"`` (and puts it back).
        does: does it.
        conv: whether the model is of convolutions.
    """

    asked: str
    says: str
    where: str = "build"
    does: Callable[[], object] = lambda: None
    conv: bool = False

    @property
    def name(self) -> str:
        """As tables show it."""
        return f"{self.asked}: {self.says}, {self.where}"

    @property
    def is_honest(self) -> bool:
        """Whether it sets nothing."""
        return self.says.startswith("honest")


def _set(module: Any, name: str, value: Any) -> Callable[[], object]:
    return partial(setattr, module, name, value)


_cuda, _cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
_high = partial(torch.set_float32_matmul_precision, "high")

LIARS = (
    Liar("fp32", "honest"),
    Liar("fp32", "honest convolutions", conv=True),
    Liar("tf32", "honest"),
    Liar("fp32", "cuda.matmul.allow_tf32", does=_set(_cuda, "allow_tf32", True)),
    Liar("fp32", "set_float32_matmul_precision", does=_high),
    Liar("fp32", "cuda.matmul.fp32_precision", does=_set(_cuda, "fp32_precision", "tf32")),
    Liar("fp32", "backends.fp32_precision", does=_set(torch.backends, "fp32_precision", "tf32")),
    Liar("fp32", "cuda.matmul.allow_tf32", "forward", _set(_cuda, "allow_tf32", True)),
    Liar("fp32", "set_float32_matmul_precision", "forward", _high),
    Liar("fp32", "TF32 on and off", "around forward"),
    Liar("fp32", "cudnn.allow_tf32", "build", _set(_cudnn, "allow_tf32", True), conv=True),
    Liar("fp32", "cudnn.conv.fp32_precision", "build", _set(_cudnn.conv, "fp32_precision", "tf32"), conv=True),
    Liar("tf32", "set_float32_matmul_precision", does=partial(torch.set_float32_matmul_precision, "highest")),
    Liar("tf32", "cuda.matmul.allow_tf32", "forward", _set(_cuda, "allow_tf32", False)),
    Liar("tf32", "cudnn.allow_tf32", "build", _set(_cudnn, "allow_tf32", False), conv=True),
)
"""All of them, and honest ones, whose trials must not be refused."""


class Lying(nn.Module):
    """A model whose forward goes through a library's hands."""

    def __init__(self, inner: nn.Module, liar: Liar) -> None:
        super().__init__()
        self.inner, self._liar = inner, liar

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The inner model's outputs."""
        if self._liar.where == "forward":
            self._liar.does()
        with numerics(LADDER["tf32"]) if self._liar.where == "around forward" else nullcontext():
            return self.inner(inputs)  # type: ignore[no-any-return]


def build(config: Mapping[str, Any]) -> Task:
    """A task of wide products, or of convolutions alone but for a small head."""
    liar: Liar = config["liar"]
    shape = (64, 16, 16) if liar.conv else (1024,)
    if liar.conv:
        layers = [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)]
        head: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 8)]
    else:
        layers, head = [nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024)], [nn.Linear(1024, 8)]
    data = TensorDataset(torch.randn(64, *shape), torch.randint(8, (64,)))
    if liar.where == "build":
        liar.does()
    return Task(Lying(nn.Sequential(*layers, *head), liar), data, data)


def examine(liar: Liar, device: torch.device) -> Row:
    """What was asked, what ran, and whether the effective precision tells of a lie that took."""
    precision = LADDER[liar.asked]
    task = find_task("benchmarks.gpu.liars:build")
    spec = TrialSpec("liar", task, {"liar": liar, "batch_size": 64}, liar.asked, 0, Budget(max_epochs=1))
    with isolated(precision, 0, 1):
        loop, observation = build_observed(spec, precision, device, num_steps=False)
        error = _error(loop)
    row = Row(ITEM, liar.name, effective=observation.effective)
    took = (error > NARROWED) != (liar.asked == "tf32")
    row.outcome = _outcome(liar, took, observation.mismatch(precision) is not None)
    row.note = f"error against FP64: {error:.1e}"
    return row


def _error(loop: Loop) -> float:
    """Relative error of the outputs by the settings that the observed step left in force."""
    inputs = loop.data.first_part()[0]
    with torch.no_grad():
        exact = copy.deepcopy(loop.model.inner).double()(inputs.double())
        return float((loop.model(inputs).double() - exact).norm() / exact.norm())


def _outcome(liar: Liar, took: bool, noticed: bool) -> str:
    """A lie that did not take, as TF32 on a CPU, may be noticed by its setting; a trial that tells none must not be."""
    if noticed:
        return "false alarm" if liar.is_honest else "caught"
    return "MISSED" if took else "nothing to catch"
