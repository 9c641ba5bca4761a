"""Tasks that lie, each beside a twin that does the same honestly; which lie, where and how large is in the config.

``config["case"]`` names a function of :data:`CASES`, ``config["lies"]`` says whether it is the liar or the twin. All
else is drawn anew for every seed: widths, depth, and the place and size of the lie.
"""

import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from trainables import Task

INPUTS, CLASSES, ITEMS = 8, 2, 64


class Stack(nn.Module):
    """Linear layers (B, 8) to (B, 2); ``around`` is what one of them, or all, are computed by."""

    def __init__(self, widths: list[int], around: Callable[[nn.Linear, torch.Tensor], torch.Tensor], at: set[int]):
        super().__init__()
        sizes = [INPUTS, *widths, CLASSES]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.around, self.at = around, at

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, layer in enumerate(self.layers):
            x = self.around(layer, x) if index in self.at else layer(x)
            if index < len(self.layers) - 1:
                x = functional.relu(x)
        return x


def plainly(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return layer(x)


def data(num_items: int = ITEMS) -> TensorDataset:
    inputs = torch.randn(num_items, INPUTS, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, (inputs.sum(1) > 0).long())


def task(model: nn.Module, **fields: Any) -> Task:
    return Task(model, data(), data(), **fields)


def stack(
    config: Mapping[str, Any], around: Callable[..., torch.Tensor] = plainly, at: set[int] | None = None
) -> Stack:
    widths = list(config["widths"])
    return Stack(widths, around, set(range(len(widths) + 1)) if at is None else at)


# What a step computes in.


def autocast_off(config: Mapping[str, Any]) -> Task:
    """Switches autocast off for the whole forward; the twin switches it on again."""

    def around(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not config["lies"]):
            return layer(x.float() if config["lies"] else x)

    return task(stack(config, around))


def autocast_off_in_a_layer(config: Mapping[str, Any]) -> Task:
    """Switches autocast off in the widest layer; the twin in the head, which is too small to count."""

    def around(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return layer(x.float())

    sizes = [INPUTS, *config["widths"], CLASSES]
    products = [a * b for a, b in pairwise(sizes)]
    at = products.index(max(products)) if config["lies"] else len(products) - 1
    return task(stack(config, around, {at}))


def casts(config: Mapping[str, Any]) -> Task:
    """Casts what its layers compute with to another format than the one asked for; the twin to the same."""
    own, other = (torch.bfloat16, torch.float32) if config["asked"] == "bf16-true" else (torch.float32, torch.bfloat16)
    dtype = other if config["lies"] else own

    def around(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype)).to(own)

    return task(stack(config, around))


def loads_in_bf16(config: Mapping[str, Any]) -> Task:
    """Hands over a model in BF16, as checkpoints often come; the twin's was cast to FP32."""

    def around(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return layer(x.to(layer.weight.dtype))

    model = stack(config, around).to(torch.bfloat16)
    return task(model if config["lies"] else model.float(), loss=mean_loss)


def mean_loss(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
    return functional.cross_entropy(outputs.float(), batch[1])


def leaves_a_default_dtype(config: Mapping[str, Any]) -> Task:
    """Leaves another default dtype on while it builds its model; the twin puts it back before."""

    def around(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return layer(x.to(layer.weight.dtype))

    torch.set_default_dtype(getattr(torch, config["dtype"]))
    if not config["lies"]:
        torch.set_default_dtype(torch.float32)
    return task(stack(config, around), loss=mean_loss)


def leaves_a_matmul_setting(config: Mapping[str, Any]) -> Task:
    """Lets FP32 products be narrowed, for the whole process, in its builder or in its forward; the twin forbids it."""
    wanted = config["setting"] if config["lies"] else "highest"

    def around(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        if config["in_forward"]:
            torch.set_float32_matmul_precision(wanted)
        return layer(x)

    if not config["in_forward"]:
        torch.set_float32_matmul_precision(wanted)
    return task(stack(config, around))


def cuda_amp(config: Mapping[str, Any]) -> Task:
    """Brings its own AMP, written for CUDA, which on a CPU switches itself off; the twin's is for the CPU."""

    def around(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        kind = "cuda" if config["lies"] else "cpu"
        with torch.autocast("cpu", enabled=False), torch.autocast(kind, dtype=torch.bfloat16):
            return layer(x.float())

    return task(stack(config, around))


class Changing(Stack):
    """Computes otherwise once it has been called in training ``after`` times."""

    def __init__(self, widths: list[int], after: int, change: Callable[[nn.Linear, torch.Tensor], torch.Tensor]):
        super().__init__(widths, plainly, set(range(len(widths) + 1)))
        self.steps, self.after, self.change = Steps(), after, change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.steps.next() >= self.after:
            self.around = self.change
        return super().forward(x)


def changes_later(config: Mapping[str, Any]) -> Task:
    """Computes in another format from a step on; the twin's changes its activation and its inputs' scale there."""

    def other_format(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        asked = torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not asked):
            return layer(x.float()).to(x.dtype)

    def cast(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return functional.linear(x.double(), layer.weight.double(), layer.bias.double()).to(x.dtype)

    def honest(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return functional.leaky_relu(layer(x * 0.5), 0.1)

    lie = {"autocast": other_format, "dtype": cast}[config["how"]]
    model = Changing(list(config["widths"]), config["after"], lie if config["lies"] else honest)
    return task(model, loss=mean_loss)


def leaves_everything_changed(config: Mapping[str, Any]) -> Task:
    """Changes whatever a process shares, for the trial that comes next in it."""
    if config["lies"]:
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision("medium")
        torch.set_num_threads(2)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.manual_seed(config["seed"])
        torch.set_autocast_enabled("cpu", True)
    return task(stack(config))


# How training goes.


class Steps:
    """Counts the training steps that a task's loss has seen, of one that was just built."""

    def __init__(self) -> None:
        self.num = -1

    def next(self) -> int:
        if torch.is_grad_enabled():
            self.num += 1
        return self.num


def loss_turns_nan(config: Mapping[str, Any]) -> Task:
    """A loss that is NaN from a step on, or in every tenth step; the twin's is merely large."""
    steps = Steps()

    def loss(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        step, found = steps.next(), mean_loss(outputs, batch)
        # The first call only observes a step.
        bad = step >= config["from"] if config["every"] is None else step % config["every"] == config["from"]
        factor = (float("nan") if config["lies"] else 30.0) if bad and torch.is_grad_enabled() else 1.0
        return 1e-3 * factor * found  # small, since a gradient that overflows would be a step skipped, not a loss

    return task(stack(config), loss=loss)


def scale_collapses(config: Mapping[str, Any]) -> Task:
    """Gradients that no loss scale saves; the twin's overflow at the scale that training starts with, but soon fit."""

    def loss(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        return Overflow.apply(mean_loss(outputs, batch), 0.0 if config["lies"] else config["fits"])

    return task(stack(config), loss=loss)


class Overflow(torch.autograd.Function):
    """Passes a value on; its gradient is infinite where it comes in larger than ``fits``."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, fits: float) -> torch.Tensor:
        ctx.fits = fits
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient * (1.0 if gradient.abs().item() <= ctx.fits else float("inf")), None


def overflows_now_and_then(config: Mapping[str, Any]) -> Task:
    """Gradients that overflow in some steps, which a fused optimizer takes without a word; the twin's never do."""
    steps = Steps()

    def loss(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        step = steps.next()
        fits = 0.0 if config["lies"] and step in config["at"] else float("inf")
        return Overflow.apply(1e-3 * mean_loss(outputs, batch), fits)

    return task(stack(config), loss=loss)


# What an arm does otherwise than the baseline.


def is_arm() -> bool:
    """Whether a forward runs in the arm, not the baseline."""
    return torch.is_autocast_enabled("cpu")


SPENT_S = 0.0
"""The time that the virtual clock shows."""


def spend(seconds: float) -> None:
    """Lets time pass on the virtual clock, or really where the config asks for it."""
    global SPENT_S
    SPENT_S += seconds


def takes(config: Mapping[str, Any]) -> float:
    """Seconds of a forward, with a little noise."""
    noise = 1 + 0.002 * float(torch.rand((), generator=_NOISE))
    return noise * 2e-2 * (1.0 if not is_arm() else 1.0 / config["speedup"])


_NOISE = torch.Generator().manual_seed(0)


class Timed(Stack):
    """A stack that takes time on the virtual clock, less of it in the arm, and may do other things there."""

    config: Mapping[str, Any]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spend(takes(self.config))
        return super().forward(self.arm(x) if is_arm() and self.config["lies"] else x)

    def arm(self, x: torch.Tensor) -> torch.Tensor:
        return x


def timed(config: Mapping[str, Any], kind: type[Timed] = Timed, **fields: Any) -> Task:
    model = kind(list(config["widths"]), plainly, set())
    model.config = config
    return task(model, **fields)


class SmallerBatch(Timed):
    def arm(self, x: torch.Tensor) -> torch.Tensor:
        return x[: max(1, int(len(x) * self.config["share"]))] if self.training else x


def trains_on_less(config: Mapping[str, Any]) -> Task:
    """Computes a part of each batch alone in the arm."""

    def loss(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        return functional.cross_entropy(outputs.float(), batch[1][: len(outputs)])

    return timed(config, SmallerBatch, loss=loss)


class ChangingArm(Timed):
    """Leaves autocast once the arm was called in training some times; the twin scales its inputs there."""

    steps: "Steps"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (self.training and is_arm() and self.steps.next() >= self.config["after"]):
            return super().forward(x)
        if not self.config["lies"]:
            return super().forward(x * 0.99)
        spend(takes(self.config))
        with torch.autocast("cpu", enabled=False):
            return Stack.forward(self, x)


def arm_changes_later(config: Mapping[str, Any]) -> Task:
    """Computes in FP32 from a step on, in the arm."""
    found = timed(config, ChangingArm)
    found.model.steps = Steps()
    return found


BUILDS = {"num": 0}
"""How many tasks were built: what a careless builder may let its model depend on."""


def builds_another_model(config: Mapping[str, Any]) -> Task:
    """Another initial model each time that it is built, whatever the seed."""
    BUILDS["num"] += 1
    found = timed(config)
    if config["lies"]:
        with torch.no_grad():
            next(found.model.parameters()).add_(1e-3 * BUILDS["num"])
    return found


def builds_other_data(config: Mapping[str, Any]) -> Task:
    """Another number of examples, and so another order of them, each time that it is built."""
    BUILDS["num"] += 1
    found = timed(config)
    size = ITEMS - (BUILDS["num"] % 7 if config["lies"] else 0)
    return Task(found.model, data(size), data())


class Chance(Timed):
    def arm(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(len(x))[:, None] % 2 == 0, x, -x)


def learns_nothing(config: Mapping[str, Any]) -> Task:
    """Fast, but shows the arm's model half of its inputs upside down."""
    return timed(config, Chance)


def diverges_with_some_seeds(config: Mapping[str, Any]) -> Task:
    """A loss that is NaN in the arm, with some of the seeds."""
    seed = torch.initial_seed()

    def loss(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        bad = config["lies"] and seed % config["of"] == 0 and outputs.dtype is torch.bfloat16
        return mean_loss(outputs, batch) * (float("nan") if bad else 1.0)

    return timed(config, loss=loss)


def is_tiny(config: Mapping[str, Any]) -> Task:
    """As small as models come: what AMP adds to a step is more than it saves; really timed."""
    return task(stack(config))


def waits(config: Mapping[str, Any]) -> Task:
    """An honest model on a machine that may be shared."""

    def loss(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        time.sleep(1e-4)
        return mean_loss(outputs, batch)

    return task(stack(config), loss=loss)


def build(config: Mapping[str, Any]) -> Task:
    """The case's task."""
    return globals()[config["case"]](config)
