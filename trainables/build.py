"""A trial's device and loop."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from trainables.compiler import CompiledModel, CompileError
from trainables.effective import Observation, observe, undisturbed
from trainables.evaluation import Evaluator
from trainables.function import Trainable
from trainables.function_loop import FunctionLoop
from trainables.hyperparameters import Hyperparameters
from trainables.isolation import seed_everything
from trainables.ladder import Precision
from trainables.loading import TaskError, build_task, describe, load_function
from trainables.loop import Loop
from trainables.memory import is_out_of_memory, release_memory
from trainables.precision import put_in_force
from trainables.routes import DEFAULT, without_layout
from trainables.spec import TrialSpec
from trainables.task import Batch
from trainables.team import ALONE, Team


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


def build_loop(
    spec: TrialSpec, precision: Precision, device: torch.device, num_steps: bool = True, team: Team = ALONE
) -> Loop:
    """A trial's loop, the same for every precision up to the precision itself.

    Args:
        spec: what to build; every generator is seeded with its seed before the task is built, and again after.
        precision: whose numerics are in force.
        device: where it trains.
        num_steps: whether the schedule spans the spec's budget, or stays at its start.
        team: whose workers train it together.
    """
    function = load_function(spec.task)
    if isinstance(function, Trainable):
        return FunctionLoop(function, spec, precision, device, is_endless=not num_steps)
    seed_everything(spec.seed)
    task = build_task(spec.task, spec.config, spec.budget)
    own = {} if task.batch_size is None else {"batch_size": task.batch_size}
    hyper = Hyperparameters.of(own | dict(spec.config))
    steps_per_epoch = hyper.steps_per_epoch(len(task.train_set))  # type: ignore[arg-type]
    total = spec.budget.num_steps(steps_per_epoch) if num_steps else None
    if spec.fsdp and task.forward is not None:
        raise TaskError(
            "forward: must be left to the model where workers share it out, got the task's own; leave fsdp out"
        )
    loop = Loop(task, hyper, precision, spec.seed, device, total, spec.route, team, spec.fsdp)
    seed_everything(team.seed(spec.seed))  # dropout must not depend on how much building drew
    return loop


def make_evaluator(loop: Loop) -> Evaluator | FunctionLoop:
    """What evaluates a loop's model: a function that trains does it by itself, and reports."""
    return loop if isinstance(loop, FunctionLoop) else Evaluator(loop)


def build_observed(
    spec: TrialSpec, precision: Precision, device: torch.device, num_steps: bool = True, team: Team = ALONE
) -> tuple[Loop, Observation]:
    """A trial's loop, compiled where that is asked for, and what its first step does.

    Its route's settings stay in force until the isolation ends.

    The route is one that suited another configuration: where this one cannot take it, or would not compute in its
    precision by it, the loop takes the default route. Where a step draws random numbers, tensors stay stored as they
    are by default: they are filled in the order in which they are stored, and arms that differ in it would not draw
    the same.

    Args:
        spec, precision, device, num_steps, team: as of :func:`build_loop`.

    Raises:
        CompileError: the model cannot be compiled.
        TaskError: the workers of a team would not train the same.
    """
    loop, observation = _build_eager(spec, precision, device, num_steps, team)
    observation = _of_all(team, loop, observation, spec)
    # Only now, since a step that dispatch is watching is never compiled again.
    if spec.compiles(precision) and not (observation.flops and observation.mismatch(precision)):
        compile_steps(loop)
    if team.size > 1 and not spec.fsdp:
        loop.join(has_unused=any(team.gather(_leaves_out_parameters(loop))))
    return loop, observation


def _build_eager(
    spec: TrialSpec, precision: Precision, device: torch.device, num_steps: bool, team: Team
) -> tuple[Loop, Observation]:
    routes = (without_layout(spec.route),) if spec.fsdp else (spec.route, without_layout(spec.route))
    for route in dict.fromkeys(routes):
        if route == DEFAULT:
            break
        found = _by_if_it_suits(route, spec, precision, device, num_steps, team)
        if all(team.gather(found is not None)) and found is not None:
            return found
        release_memory(device)  # of the model that was built in vain
    return _by(DEFAULT, spec, precision, device, num_steps, team)


def _by_if_it_suits(
    route: str, spec: TrialSpec, precision: Precision, device: torch.device, num_steps: bool, team: Team
) -> tuple[Loop, Observation] | None:
    with suppress(*() if spec.fsdp else (Exception,)):  # workers that share a model fail together, or not in step
        loop, observation = _by(route, spec, precision, device, num_steps, team)
        if observation.mismatch(precision) is None and not (observation.draws and route != without_layout(route)):
            return loop, observation
    return None


def _by(
    route: str, spec: TrialSpec, precision: Precision, device: torch.device, num_steps: bool, team: Team
) -> tuple[Loop, Observation]:
    put_in_force(precision, route)
    loop = build_loop(replace(spec, route=route), precision, device, num_steps, team)
    return loop, observe(loop)


def _of_all(team: Team, loop: Loop, observation: Observation, spec: TrialSpec) -> Observation:
    """What the workers of a team observed: of one that did not do what was asked for, else of all together.

    Raises:
        TaskError: they would not train the same model on the same data.
    """
    if team.size == 1:
        return observation
    for what, digest in (("initial weights", loop.init_digest), ("training data", loop.data.digest())):
        if len(set(team.gather(digest))) > 1:
            raise TaskError(
                f"task: {spec.task.name} must give all {team.size} workers of a trial the same {what} for the same "
                "seed, but they differ; draw from torch's generator alone"
            )
    found = team.gather(observation)
    wrong = next((each for each in found if each.mismatch(loop.precision) is not None and each.is_told), None)
    flops = dict(sum((Counter(each.flops) for each in found), Counter()))
    activations = max(each.activations for each in found)
    return wrong or replace(found[0], flops=flops, activations=activations)


def _leaves_out_parameters(loop: Loop) -> bool:
    """Whether a step leaves parameters without a gradient; leaves the loop as it was."""
    try:
        with undisturbed(loop.model):
            loop.model.train()
            loop.forward(loop.data.first_part())[1].backward()
        return any(parameter.grad is None for parameter in loop.model.parameters() if parameter.requires_grad)
    finally:
        loop.model.zero_grad(set_to_none=True)


def compile_steps(loop: Loop) -> None:
    """Has a loop's steps run compiled, by compiling them now, outside of all that is timed; leaves it as it was.

    Args:
        loop: before its first step, its precision's numerics and :func:`trainables.compiler.compiler` in force.

    Raises:
        CompileError: the model cannot be compiled.
    """
    model = CompiledModel(loop.model)
    loop.train_by(model)
    try:
        with undisturbed(loop.model):
            loop.model.train()
            # Two steps, since batches of varying shapes are compiled once for the first shape and once for all others.
            for batch in {_shapes(batch): batch for batch in loop.data.first_parts(2)}.values():
                loop.forward(batch)[1].backward()
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, CompileError):
            raise
        reason = f"torch.compile failed on the model: {describe(error)}; leave compile off, or correct the model"
        raise CompileError(reason) from None
    finally:
        loop.optimizer.zero_grad(set_to_none=True)
    if not model.num_graphs:
        raise CompileError("torch.compile found nothing to compile in the model; leave compile off")


def _shapes(batch: Batch) -> tuple[Any, ...]:
    """The shapes of a batch's tensors, at any depth."""
    if isinstance(batch, torch.Tensor):
        return tuple(batch.shape)
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return tuple(_shapes(part) for part in parts)
