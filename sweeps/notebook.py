"""A hyperparameter search in one call, for a notebook: a model factory and tensors in memory."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sweeps.engine.sweep import Sweep, SweepError
from sweeps.search.checks import did_you_mean, refuse
from sweeps.search.configurations import read_points, sample, split_point
from sweeps.search.domains import Domain, Scalar

if TYPE_CHECKING:
    from torch import nn

    from analysis import Results
    from trainables.in_memory import InMemory


def tune_model(
    make_model: "Callable[[dict[str, Any]], nn.Module]",
    train: Any,
    val: Any,
    *,
    space: Mapping[str, Domain | Scalar],
    loss: Callable[[Any, Any], Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    num_trials: int = 16,
    name: str = "tune_model",
    **fields: Any,
) -> "Results":
    """Searches hyperparameters and precisions of a model on tensors in memory, and confirms the best.

    Args:
        make_model: from a configuration, a dict, to a new ``nn.Module``; it may be a lambda or close over variables.
        train, val: pairs ``(x, y)`` of tensors or arrays of one length; several inputs come before the labels.
        space: hyperparameters by name. The loop reads ``learning_rate``, ``batch_size`` and its others from it.
        loss, metrics: as of ``trainables.Task``; default: cross-entropy and accuracy where labels are integers.
        num_trials: runs of the search: configurations times precisions.
        name: of the sweep.
        fields: all else that a ``Sweep`` has, such as ``precisions``, ``max_epochs``, ``confirm`` and ``storage``.

    Returns:
        the results: ``.best()``, ``.verdicts``, ``.trials``, ``.history``.

    Raises:
        SweepError, TaskError: bad input; nothing was trained.
        Unfinished: the sweep could not go on; what it measured so far is kept.
    """
    from sweeps.engine.stages import run

    known = [each.name for each in dataclasses.fields(Sweep) if each.name != "task"]
    for field in fields:
        if field not in known:
            refuse(field, "must be a field of Sweep", fields[field], f"{did_you_mean(field, known)}see help(Sweep)")
    task = _in_memory(make_model, train, val, loss, metrics)
    sweep = Sweep(name=name, task=task, space=space, num_trials=num_trials, **fields)
    first = sample(sweep.space, sweep.seed, 0) if sweep.points is None else split_point(read_points(sweep.points)[0])[0]
    _check_model(make_model, first)
    return run(sweep)


def _in_memory(make_model: Any, train: Any, val: Any, loss: Any, metrics: Any) -> "InMemory":
    from trainables.in_memory import InMemory, own_tensors

    if not callable(make_model):
        refuse(
            "make_model", "must be a function from a configuration to a model", make_model, "wrap it: lambda config:"
        )
    try:
        return InMemory(make_model, own_tensors("train", train), own_tensors("val", val), loss, metrics)
    except ValueError as error:
        raise SweepError(str(error)) from None


def _check_model(make_model: Callable[[dict[str, Any]], Any], config: dict[str, Any]) -> None:
    """Makes one model here, since that tells at once of what every trial would fail with."""
    import torch

    from trainables.loading import TaskError, describe

    try:
        with torch.random.fork_rng(devices=[]):
            model = make_model(dict(config))
    except (Exception, SystemExit) as error:
        raise TaskError(f"make_model: must make a model of {config}, got {describe(error)}; correct it") from error
    if not isinstance(model, torch.nn.Module):
        refuse("make_model", "must return a torch.nn.Module", type(model).__name__, "correct what it returns")
