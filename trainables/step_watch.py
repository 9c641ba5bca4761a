"""A step of somebody else's loop, watched while it really runs: what its products ran in, and in which state."""

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from trainables.effective import Observation, generators, judge
from trainables.ladder import Precision
from trainables.loss_scaler import LossScaler
from trainables.memory import activation_bytes
from trainables.precision import autocast
from trainables.products import MatrixFlops
from trainables.state import InForward, read_state, watch_forward


class Watched:
    """What is trained, and how: the part of a loop that an observation looks at.

    Args:
        model, optimizer: as they are trained.
        loss_scaler: that the loop is to use.
        precision: that was asked for, its numerics in force.
        route: kernel route in force.
        device: where it trains.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_scaler: LossScaler,
        precision: Precision,
        route: str,
        device: torch.device,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.loss_scaler = loss_scaler
        self.scaler = loss_scaler if precision.scaled else None
        self.precision, self.route, self.device = precision, route, device
        self.autocast = autocast(precision, device)


class StepWatch:
    """Watches from :meth:`begin` to the optimizer's step, whose own products are not the model's; all in one thread.

    Args:
        watched: what is looked at.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched, self._stack = watched, ExitStack()
        self._fault: str | None = None
        self._is_open = False

    def begin(self) -> None:
        """Begins to watch."""
        watched, enter = self._watched, self._stack.enter_context
        self._generators = generators(watched.device)
        self._fault = read_state(watched).fault(watched.precision)
        self._forward: InForward = enter(watch_forward(watched))
        self._flops = enter(MatrixFlops())
        self._saved = enter(activation_bytes(watched.model))
        hook = watched.optimizer.register_step_pre_hook(self._before_optimizer_step)
        self._is_open = True
        self._stack.callback(hook.remove)

    def _before_optimizer_step(self, *_: Any) -> None:
        if self._is_open:
            self._look()

    def _look(self) -> None:
        """The gradients are there, and the optimizer has not begun."""
        self._is_open = False
        self._draws = any(
            not torch.equal(a, b) for a, b in zip(self._generators, generators(self._watched.device), strict=True)
        )
        self._activations = self._saved()
        self._stack.close()
        self._fault = self._fault or self._state_fault()

    def _state_fault(self) -> str | None:
        return read_state(self._watched).fault(self._watched.precision)

    @property
    def saw_model(self) -> bool:
        """Whether the model was called in it."""
        return self._forward.called

    def leave(self) -> None:
        """Stops watching, where it still does."""
        self._is_open = False
        self._stack.close()

    def end(self) -> Observation:
        """What the step did.

        Raises:
            RuntimeError: the model was not called in it.
        """
        if self._is_open:
            self._look()
        watched = self._watched
        if not self._forward.called:
            raise RuntimeError(
                "the model that run.prepare was given must be called in a step, but was not; give it the one you train"
            )
        fault = self._fault or self._state_fault() or self._forward.fault(watched) or self._unscaled()
        found = judge(watched.precision, self._flops.by_format(watched.device), self._activations)
        effective = None if fault and found.effective == watched.precision.name else found.effective
        return replace(
            found,
            effective=effective,
            fault=fault,
            draws=self._draws,
            kinds=self._flops.kinds,
            attention=" ".join(sorted(self._forward.attention)) or None,
        )

    def _unscaled(self) -> str | None:
        watched = self._watched
        if watched.scaler is None or watched.loss_scaler.was_used:
            return None
        return "the loss was not scaled (run.scaler was not used)"
