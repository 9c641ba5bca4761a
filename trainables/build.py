"""A trial's device and loop."""

from contextlib import suppress
from dataclasses import replace

import torch

from trainables.effective import Observation, observe
from trainables.hyperparameters import Hyperparameters
from trainables.isolation import seed_everything
from trainables.ladder import Precision
from trainables.loading import build_task
from trainables.loop import Loop
from trainables.precision import put_in_force
from trainables.routes import DEFAULT, without_layout
from trainables.spec import TrialSpec


def pick_device(num_gpus: float) -> torch.device:
    """The device of a trial: the first visible GPU where it was given one, else the CPU.

    Raises:
        RuntimeError: a GPU was given, but PyTorch sees none.
    """
    if num_gpus <= 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"gpus_per_trial is {num_gpus}, but PyTorch sees no GPU here; install its CUDA build or use 0"
        )
    return torch.device("cuda", 0)  # pragma: gpu


def build_loop(spec: TrialSpec, precision: Precision, device: torch.device, num_steps: bool = True) -> Loop:
    """A trial's loop, the same for every precision up to the precision itself.

    Args:
        spec: what to build; every generator is seeded with its seed before the task is built, and again after.
        precision: whose numerics are in force.
        device: where it trains.
        num_steps: whether the schedule spans the spec's budget, or stays at its start.
    """
    seed_everything(spec.seed)
    task = build_task(spec.task, spec.config)
    hyper = Hyperparameters.of(spec.config)
    batch_size = min(hyper.batch_size, len(task.train_set))  # type: ignore[arg-type]
    steps_per_epoch = len(task.train_set) // batch_size  # type: ignore[arg-type]
    total = spec.budget.num_steps(steps_per_epoch) if num_steps else None
    loop = Loop(task, hyper, precision, spec.seed, device, total, spec.route)
    seed_everything(spec.seed)  # dropout must not depend on how much building drew
    return loop


def build_observed(
    spec: TrialSpec, precision: Precision, device: torch.device, num_steps: bool = True
) -> tuple[Loop, Observation]:
    """A trial's loop, and what its first step does; its route's settings stay in force until the isolation ends.

    The route is one that suited another configuration: where this one cannot take it, or would not compute in its
    precision by it, the loop takes the default route. Where a step draws random numbers, tensors stay stored as they
    are by default: they are filled in the order in which they are stored, and arms that differ in it would not draw
    the same.

    Args:
        spec, precision, device, num_steps: as of :func:`build_loop`.
    """
    for route in dict.fromkeys((spec.route, without_layout(spec.route))):
        if route == DEFAULT:
            break
        with suppress(Exception):
            loop, observation = _by(route, spec, precision, device, num_steps)
            if observation.mismatch(precision) is None and not (observation.draws and route != without_layout(route)):
                return loop, observation
    return _by(DEFAULT, spec, precision, device, num_steps)


def _by(
    route: str, spec: TrialSpec, precision: Precision, device: torch.device, num_steps: bool
) -> tuple[Loop, Observation]:
    put_in_force(precision, route)
    loop = build_loop(replace(spec, route=route), precision, device, num_steps)
    return loop, observe(loop)
