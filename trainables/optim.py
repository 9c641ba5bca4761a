"""Optimizers, and the learning rate as a pure function of the applied step."""

import inspect
import math
from typing import Any, TypeVar

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

from trainables.hyperparameters import Hyperparameters
from trainables.task import Task


def learning_rate_factor(step: int, num_steps: int, warmup_frac: float, lr_schedule: str) -> float:
    """What the peak learning rate is multiplied with at a step.

    Args:
        step: optimizer steps applied so far, from 0.
        num_steps: steps of the whole run.
        warmup_frac: share of ``num_steps`` in which the factor rises linearly; its first step is above 0.
        lr_schedule: ``"constant"``, ``"linear"`` (to 0 at ``num_steps``) or ``"cosine"`` (to 0; arXiv 1608.03983).
    """
    warmup = round(warmup_frac * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    if lr_schedule == "constant" or step >= num_steps:
        return 1.0 if lr_schedule == "constant" else 0.0
    progress = (step - warmup) / max(1, num_steps - warmup)
    return 1.0 - progress if lr_schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


def lay_out_state(optimizer: Optimizer) -> None:
    """Stores loaded state as its parameters are stored, which another route may have otherwise.

    Fused optimizers go through memory, and would mistake one number's moments for another's.
    """
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def make_optimizer(task: Task, hyper: Hyperparameters) -> Optimizer:
    """The optimizer, fused where that is right, over the task's parameter groups, or over all parameters that train.

    Args:
        task: its model, and ``param_groups`` or an ``optimizer`` of its own.
        hyper: the optimizer's name, learning rate and weight decay.
    """
    own = task.optimizer(task.model) if task.optimizer else None
    if own is not None:
        return own
    groups = task.param_groups(task.model) if task.param_groups else _trainable(task.model)
    rate = hyper.learning_rate
    if hyper.optimizer == "sgd":
        # Fused, it need not wait for the device to learn whether the scaler skips a step. On the CPU that kernel leaves
        # BF16 parameters where they are (pytorch#191763), so it takes nothing but FP32's on CUDA; no sparse gradients.
        fused = all(p.is_cuda and p.dtype is torch.float32 for p in task.model.parameters())
        fused = fused and not any(getattr(module, "sparse", False) for module in task.model.modules())
        return make_sgd(groups, rate, hyper.weight_decay, fused)
    kind = _EagerAdamW if hyper.optimizer == "adamw" else _EagerAdam
    return kind(groups, lr=rate, weight_decay=hyper.weight_decay, fused=True)


def make_sgd(groups: Any, rate: float, weight_decay: float, fused: bool) -> Optimizer:
    """SGD with momentum 0.9.

    Args:
        groups: parameter groups, or parameters.
        rate, weight_decay: as of PyTorch's.
        fused: in one kernel, which skips a step that the loss scaler calls off, without the host's knowing of it.
    """
    optimizer = _EagerSGD(groups, lr=rate, momentum=0.9, weight_decay=weight_decay, fused=fused or None)
    if fused:
        optimizer.register_step_pre_hook(_begin_momentum)
    return optimizer


def _begin_momentum(optimizer: Optimizer, *_: Any) -> None:
    """Momentum from 0, which comes to the same; PyTorch leaves it uninitialised where the first step is skipped."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if parameter.grad is not None and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)


_Kind = TypeVar("_Kind", bound=Optimizer)


def _eager(kind: type[_Kind]) -> type[_Kind]:
    """An optimizer without the wrappers that keep ``torch.compile`` out: they import all of it at their first use.

    That import takes as long again as PyTorch's own, in every process that trains; a step itself stays as it is.
    """
    guarded = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in guarded}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(f"_Eager{kind.__name__}", (kind,), methods)


_EagerSGD, _EagerAdam, _EagerAdamW = _eager(SGD), _eager(Adam), _eager(AdamW)


def _trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    found = [p for p in model.parameters() if p.requires_grad]
    if not found:
        raise ValueError("the model must have at least one parameter that requires a gradient, got none")
    return found
