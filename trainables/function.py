"""A function of one's own that trains: its loop stays its own, and ``run`` tells what it did and is told to do.

    @trainable
    def train(config, run):
        model, optimizer = ...
        run.prepare(model, optimizer)
        for epoch in run.epochs():
            for inputs, labels in loader:
                with run.step():
                    with run.autocast():
                        loss = cross_entropy(model(inputs), labels)
                    run.scaler.scale(loss).backward()
                    run.scaler.step(optimizer)
                    run.scaler.update()
                    optimizer.zero_grad()
            run.report(accuracy=..., loss=...)

Its precision is observed in steps that it makes, so that a label never comes from what it says.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import torch
from torch import nn
from torch.optim import Optimizer

from trainables.course import Course
from trainables.ladder import Precision
from trainables.loading import TaskError
from trainables.loss_scaler import LossScaler
from trainables.pickled import name_of
from trainables.precision import autocast
from trainables.spec import Budget


class Trainable:
    """A function ``(config, run) -> None`` that trains by itself; :func:`trainable` makes it.

    Args:
        function: the function.
    """

    def __init__(self, function: Callable[[dict[str, Any], "Run"], object]) -> None:
        self.function = function
        self.__wrapped__: object
        functools.update_wrapper(self, function)
        del self.__wrapped__  # as a task it is called with a configuration alone

    def __call__(self, config: Mapping[str, Any]) -> NoReturn:
        """There is no model of it without training.

        Raises:
            TaskError: always.
        """
        raise TaskError(
            f"task: must build a model to load weights into, got {name_of(self)}, a function that trains by itself; "
            "make the model as the function does, and read the weights with torch.load"
        )


def trainable(function: Callable[[dict[str, Any], "Run"], object]) -> Trainable:
    """Marks a function that trains by itself as what a sweep's ``task`` may name.

    Args:
        function: ``(config, run)``: the hyperparameters of a trial as a dict, and a :class:`Run`. It ends when it is
            done, or at its next step once the budget is spent.
    """
    return Trainable(function)


class Run:
    """What a function that trains is given beside its configuration.

    ``device`` is where to train, ``seed`` what all generators were seeded with, ``max_epochs`` and ``max_steps`` the
    budget (one of them is ``None``), ``report_every_steps`` as in the sweep, ``precision`` the name that is asked for.
    ``scaler`` is a ``torch.amp.GradScaler``, which does nothing in precisions that need no loss scale; losses that pass
    through it are watched for NaN and reported as ``train_loss``.

    Made by ampsweep alone.
    """

    def __init__(self, course: Course, precision: Precision, device: torch.device, seed: int, budget: Budget) -> None:
        self._course = course
        self.precision, self.device, self.seed = precision.name, device, seed
        self.max_epochs, self.max_steps = budget.max_epochs, budget.max_steps
        self.report_every_steps = budget.report_every_steps
        self.scaler: LossScaler = course.scaler
        self._autocast = precision, device

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Moves the model to the device and the precision's dtype, in place, and has both observed from now on.

        In a precision whose parameters are below FP32 the model's inputs are cast for it, and its outputs back. Of
        several models, the one that is prepared last is observed, and its weights are kept.

        Args:
            model: the one to train, with its initial weights, in FP32.
            optimizer: over its parameters; it has made no step.
        """
        self._course.prepare(model, optimizer)

    def epochs(self) -> Iterator[int]:
        """Counts epochs from 0 until the budget is spent, each of which must make steps; called again, it goes on."""
        return self._course.epochs()

    def step(self) -> AbstractContextManager[None]:
        """A context for one optimizer step: forward, loss, backward and the optimizer's step."""
        return self._course.step()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision's autocast, for forward and loss; it does nothing in precisions that need none."""
        return autocast(*self._autocast)

    @property
    def should_report(self) -> bool:
        """Whether the steps since the last report are as many as the sweep wants between two, or all that there are."""
        return self._course.should_report

    def report(self, **values: Any) -> None:
        """Reports metrics of the model as it is now, once an epoch or wherever :attr:`should_report` says so.

        Args:
            values: metric -> a number, or a tensor or array (num_val_examples,) of one value per validation example,
                whose mean it is and which confirming keeps. Columns are named ``val_<name>``; ``train_loss`` is the
                training's own.
        """
        self._course.report(values)
