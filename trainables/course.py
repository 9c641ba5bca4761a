"""The course of a function that trains by itself: its steps, epochs and reports, and where it waits for its caller."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from trainables.budgeted import Clock
from trainables.effective import Observation
from trainables.given_data import GivenData, watch_inputs
from trainables.isolation import weights_digest
from trainables.ladder import Precision
from trainables.loop import LOOK_EVERY_S
from trainables.loss_scaler import LossScaler
from trainables.routes import take_layout
from trainables.spec import Budget
from trainables.step_times import StepTimes
from trainables.step_watch import StepWatch, Watched
from trainables.tally import Tally
from trainables.turns import Stopped, Turns

WATCHED = frozenset(8**power for power in range(1, 20))
"""Steps that are watched beside the first and the last: few, since watching slows them."""


class Reported(NamedTuple):
    """What a function reported: metrics by column, their values per validation example, its own training loss."""

    values: dict[str, float]
    examples: dict[str, NDArray[np.float64]]
    train_loss: float | None


class Course:
    """Used from inside of the function; its caller sets what it is to do next and reads what it did.

    A function pauses where a step begins, so that what came before, such as a report, is known to be its last or not.

    Args:
        precision, route, device: as of :class:`trainables.loop.Loop`.
        budget: when it is to end; ``None``: never.
    """

    turns: Turns
    """Those of the function that runs."""

    def __init__(self, precision: Precision, route: str, device: torch.device, budget: Budget | None) -> None:
        self._precision, self._route, self._device, self._budget = precision, route, device, budget
        self.scaler = LossScaler(device, precision.scaled)
        self.watched: Watched | None = None
        self.init_digest = ""
        self.data = GivenData()
        self.steps = 0
        self.reported: Reported | None = None
        """Of a report that nobody has taken yet."""
        self.num_reports = self.reported_at = 0
        self.observation: Observation | None = None
        self.tally = Tally(device)
        self.times = StepTimes()
        self.left: int | None = 0
        """Steps to go before it pauses; ``None``: until it has reported."""
        self.watch_next = False
        self.clock: Clock | None = None
        self.is_broken = False
        """Whether a loss was seen that is not finite."""
        self._epochs: int | None = None
        self._epoch_began: int | None = None  # at which step; none where no epoch is under way
        self._last_step = budget.max_steps if budget is not None else None  # as far as it can be foreseen
        self._since: float | None = None
        self._look_at_s = time.monotonic() + LOOK_EVERY_S
        self._in_step = False

    def prepare(self, model: Any, optimizer: Any) -> None:
        """As :meth:`trainables.function.Run.prepare` has it."""
        if not isinstance(model, nn.Module) or not isinstance(optimizer, Optimizer):
            got = f"{type(model).__name__} and {type(optimizer).__name__}"
            raise TypeError(f"run.prepare must be given a torch.nn.Module and a torch.optim.Optimizer, got {got}")
        own = {id(parameter) for parameter in model.parameters()}
        if not any(id(each) in own for group in optimizer.param_groups for each in group["params"]):
            raise ValueError("run.prepare must be given an optimizer over the model's parameters, got one over others")
        self.init_digest = self.init_digest or weights_digest(model)
        low = self._precision.parameters != "float32"
        dtype = getattr(torch, self._precision.parameters) if low else None
        model.to(device=self._device, dtype=dtype)
        take_layout(self._route, model)
        watch_inputs(model, self.data, dtype)
        self.watched = Watched(model, optimizer, self.scaler, self._precision, self._route, self._device)

    @property
    def epochs_done(self) -> int:
        """Epochs that were counted; where the function does not count them, its reports."""
        pending = self.reported is not None
        return self._epochs if self._epochs is not None else self.num_reports + pending

    @property
    def is_spent(self) -> bool:
        """Whether the budget is."""
        budget = self._budget
        if budget is None:
            return False
        if budget.max_steps is not None:
            return self.steps >= budget.max_steps
        return self.epochs_done >= (budget.max_epochs or 1)

    def begin_anew(self) -> None:
        """The function begins, for the first time or once more: its epochs count from 0."""
        self._epochs = self._epoch_began = None
        self.left = 0

    def epochs(self) -> Iterator[int]:
        """As :meth:`trainables.function.Run.epochs` has it; an epoch that was broken off counts where it made steps."""
        self._epochs = self._epochs or 0
        if self._epoch_began is not None and self.steps > self._epoch_began:
            self._end_epoch()
        while not self.is_spent:
            self._epoch_began = self.steps
            yield self._epochs
            if self.steps == self._epoch_began:  # nothing would ever end it
                raise ValueError(
                    f"run.epochs() must make steps in each epoch, got none in epoch {self._epochs}; "
                    "put each optimizer step in: with run.step():"
                )
            self._end_epoch()

    def _end_epoch(self) -> None:
        self._epochs, self._epoch_began = (self._epochs or 0) + 1, None
        if self._budget is not None and self._budget.max_steps is None:
            self._last_step = (self._budget.max_epochs or 1) * self.steps // self._epochs

    @property
    def should_report(self) -> bool:
        """As :attr:`trainables.function.Run.should_report` has it; never where nobody takes reports."""
        budget = self._budget
        if budget is None or self.steps == self.reported_at:
            return False
        every = budget.report_every_steps
        return self.steps == budget.max_steps or (every is not None and self.steps % every == 0)

    @contextmanager
    def step(self) -> Iterator[None]:
        """As :meth:`trainables.function.Run.step` has it."""
        watch = self._begin_step()
        try:
            yield
        except BaseException:
            self._leave_step(watch)
            raise
        self._end_step(watch)

    def _leave_step(self, watch: StepWatch | None) -> None:
        """A step failed, which its function may survive: it counts as none."""
        if watch is not None:
            watch.leave()
        self.data.end()
        self.scaler.take_loss()
        self._in_step, self._since = False, None

    def _begin_step(self) -> StepWatch | None:
        if self.watched is None:
            raise ValueError("run.prepare(model, optimizer) must be called before the first step, but was not")
        if self._in_step:
            raise ValueError("run.step() must end before the next begins, but one was begun inside of another")
        self._pause_if_due()
        if self._since is None:
            self._since = time.perf_counter()
            if self.clock is not None:
                self.clock.restart()
        self._in_step = True
        self.data.begin(self.steps + 1)
        if not self._is_watched(self.steps + 1):
            return None
        watch = StepWatch(self.watched)
        watch.begin()
        return watch

    def _is_watched(self, step: int) -> bool:
        """Whether a step is: the wanted one, the last as far as it is known, and some between where none are timed."""
        return self.watch_next or step == self._last_step or (self.clock is None and step in WATCHED)

    def _pause_if_due(self) -> None:
        if self.steps == 0:
            self.reported = None  # of the untrained model
        if self.is_spent:
            raise Stopped
        if time.monotonic() >= self._look_at_s:
            self.is_broken = self.tally.read().num_nonfinite > 0
            self._look_at_s = time.monotonic() + LOOK_EVERY_S
        while self.left == 0 or (self.left is None and (self.reported is not None or self.is_broken)):
            paused = time.perf_counter()
            self.turns.pause()
            if self._since is not None:
                self._since += time.perf_counter() - paused

    def _end_step(self, watch: StepWatch | None) -> None:
        self._in_step = False
        self.data.end()
        self.steps += 1
        loss, skipped = self.scaler.take_loss(), self.scaler.take_skipped()
        if loss is not None:
            self.tally.add(loss, skipped, self.scaler._scale if skipped is not None else None)
        now = time.perf_counter()
        assert self._since is not None
        self.times.add(now - self._since, watch is not None)
        if watch is not None:
            if self.watch_next or watch.saw_model:
                self._observed(watch.end())
            watch.leave()
            self.watch_next = False
            now = time.perf_counter()
        self._since = now
        if self.left:
            self.left -= 1
        if self.clock is not None:
            self.clock.tick()

    def _observed(self, found: Observation) -> None:
        """Keeps what a step did, unless an earlier one is known to have deviated: one such step is one too many."""
        if self.observation is None or self.observation.deviation(self._precision) is None:
            self.observation = found

    def report(self, values: Mapping[str, Any]) -> None:
        """As :meth:`trainables.function.Run.report` has it; what is reported before a step more belongs together."""
        before = self.reported or Reported({}, {}, None)
        own = values.get("train_loss")
        train_loss = before.train_loss if own is None else float(_array("train_loss", own).mean())
        found = {_column(name): _array(name, value) for name, value in values.items() if name != "train_loss"}
        metrics = before.values | {name: float(array.mean()) for name, array in found.items()}
        if not metrics:
            raise ValueError("run.report must be given at least one metric, such as run.report(loss=0.5), got none")
        examples = before.examples | {name: array for name, array in found.items() if array.ndim == 1}
        self.reported = Reported(metrics, examples, train_loss)
        self.reported_at = self.steps
        if not self._in_step:
            self._since = None  # what came between was evaluation

    def take_report(self) -> Reported | None:
        """What was reported since this was called last."""
        found, self.reported = self.reported, None
        self.num_reports += found is not None
        return found


def _column(name: str) -> str:
    return name if name.startswith("val_") else f"val_{name}"


def _array(name: str, value: Any) -> NDArray[np.float64]:
    """A number, or the values of the examples."""
    try:
        array = np.asarray(torch.as_tensor(value).detach().double().cpu())
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"run.report must be given numbers, got {type(value).__name__} for {name}: {error}") from None
    if array.ndim > 1 or array.size == 0:
        raise ValueError(
            f"run.report must be given a number or one value per example for {name}, got the shape {array.shape}"
        )
    return array
