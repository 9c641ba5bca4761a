"""Optimizers, and the learning rate as a pure function of the applied step."""

import math

import torch

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


def make_optimizer(task: Task, hyper: Hyperparameters) -> torch.optim.Optimizer:
    """The optimizer, fused where that is right, over the task's parameter groups, or over all parameters that train.

    Args:
        task: its model and ``param_groups``.
        hyper: the optimizer's name, learning rate and weight decay.
    """
    groups = task.param_groups(task.model) if task.param_groups else _trainable(task.model)
    rate = hyper.learning_rate
    if hyper.optimizer == "sgd":
        # Never fused: that kernel spoils the momentum in steps that the loss scaler skips, and on the CPU it leaves
        # BF16 parameters where they are (pytorch#191763).
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, weight_decay=hyper.weight_decay)
    kind = torch.optim.AdamW if hyper.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=rate, weight_decay=hyper.weight_decay, fused=True)


def _trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    found = [p for p in model.parameters() if p.requires_grad]
    if not found:
        raise ValueError("the model must have at least one parameter that requires a gradient, got none")
    return found
