"""A loop that a function of one's own has: the probe, trials and timed pairs lead it as they do ours."""

import math
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.budgeted import Clock
from trainables.compiler import CompiledModel, CompileError
from trainables.course import Course, Reported
from trainables.effective import Observation
from trainables.function import Run, Trainable
from trainables.isolation import seed_everything
from trainables.ladder import Precision
from trainables.loading import TaskError, describe
from trainables.loop import Loop
from trainables.memory import is_out_of_memory
from trainables.progress import Progress
from trainables.spec import Budget, TrialSpec
from trainables.tally import Tally, has_collapsed
from trainables.team import ALONE
from trainables.turns import Turns


class FunctionLoop(Loop):
    """The loop inside of a function, which goes on only while this is told to train.

    Args:
        function: what trains.
        spec: its configuration, seed, budget and route.
        precision: whose numerics are in force.
        device: where it trains.
        is_endless: whether it is timed or probed: its budget then never ends, and where it does, it begins anew.

    Raises:
        TaskError: it fails before its first step, or makes none.
    """

    def __init__(
        self, function: Trainable, spec: TrialSpec, precision: Precision, device: torch.device, is_endless: bool
    ) -> None:
        self._function, self._spec, self._is_endless = function, spec, is_endless
        self.precision, self.device, self.route = precision, device, spec.route
        self.dtype = None if precision.parameters == "float32" else getattr(torch, precision.parameters)
        if spec.num_workers > 1:
            remedy = "leave workers_per_trial out, or give a function that returns a Task"
            raise TaskError(
                f"{self._named} trains by itself, which only one worker can, got {spec.num_workers}; {remedy}"
            )
        self.team, self.is_sharded = ALONE, False
        self._course = Course(precision, spec.route, device, None if is_endless else spec.budget)
        self._last = Reported({}, {}, None)
        self._applied = self._progress_at = self._num_left_out = 0
        self._begin()
        self.init_digest, self.data = self._course.init_digest, self._course.data  # type: ignore[assignment]

    def _begin(self) -> None:
        """Has the function come to its first step."""
        course, seed = self._course, self._spec.seed
        run = Run(course, self.precision, self.device, seed, self._spec.budget)
        call = partial(_seeded, seed, self._function, dict(self._spec.config), run)
        self._turns = course.turns = Turns(call, self.device)
        weakref.finalize(self, self._turns.stop)
        steps = course.steps
        course.begin_anew()
        try:
            self._turns.resume()
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise
            condition = f"must come to its first step with the configuration {dict(self._spec.config)}"
            raise TaskError(f"{self._named} {condition}, got {describe(error)}; correct it") from error
        if self._turns.has_ended and course.steps == steps:
            raise TaskError(f"{self._named} must make steps, got none; put each one in: with run.step():")
        self.model, self.optimizer, self.scaler, self.autocast = self._parts()

    @property
    def _named(self) -> str:
        return f"task: {self._spec.task.name}"

    def _parts(self) -> tuple[Any, ...]:
        watched = self._course.watched
        assert watched is not None
        return watched.model, watched.optimizer, watched.scaler, watched.autocast

    @property
    def step(self) -> int:  # type: ignore[override]
        """Optimizer steps so far."""
        return self._course.steps

    @property
    def epoch(self) -> float:
        """Whole epochs so far."""
        return self._course.epochs_done

    @property
    def remarks(self) -> tuple[str, ...]:
        """None: the function may print what it has to say."""
        return ()

    @property
    def is_compiled(self) -> bool:
        """Never by us."""
        return False

    @property
    def can_be_saved(self) -> bool:
        """What the function has in its variables cannot be."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """There is none.

        Raises:
            TaskError: always.
        """
        remedy = "choose a scheduler that neither pauses nor copies trials, such as asha"
        raise TaskError(f"{self._named} must be saved, which a function that trains by itself cannot be; {remedy}")

    def train_by(self, compiled: CompiledModel) -> None:
        """It calls its model itself.

        Raises:
            CompileError: always.
        """
        raise CompileError(f"{self._named} calls its model itself; leave compile off, or compile the model in it")

    def is_done(self, budget: Budget) -> bool:
        """Whether the function has ended, by itself or with its budget."""
        return self._turns.has_ended

    def steps_to_report(self, budget: Budget, since: int) -> int:
        """Nobody knows: until it reports."""
        return 0

    def observe(self) -> Observation:
        """What a step more does; where the function has ended, what the last one did that was watched."""
        course = self._course
        if not self._turns.has_ended:
            course.watch_next = True
            self._go_on(1)
        return self.latest()

    def latest(self) -> Observation:
        """What the last step did that was watched, or an earlier one that was found to deviate."""
        assert self._course.observation is not None
        return self._course.observation

    def train(self, num_steps: int, after_step: Callable[[], object] | None = None) -> Progress:
        """Lets the function make so many steps; of a trial, as many as it makes up to its next report."""
        course = self._course
        if self._is_endless:
            self._go_on(num_steps)
        else:
            self._until_report()
        counts = course.tally.read()
        num_steps_made = course.steps - self._progress_at
        train_s = course.times.take(num_steps_made)
        course.tally, self._progress_at = Tally(self.device, course.steps), course.steps
        skipped = int(course.scaler.skipped)
        self._applied, applied_before = course.steps - skipped, self._applied
        scaled = self.scaler is not None
        num_applied = self._applied - applied_before
        self._num_left_out = 0 if num_applied else self._num_left_out + num_steps_made
        known = num_applied > 0 and course.scaler.was_used
        train_loss = counts.loss_sum / num_applied if known else math.nan
        return Progress(
            train_loss=train_loss if self._last.train_loss is None else self._last.train_loss,
            grad_norm=math.nan,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            applied_steps=self._applied,
            loss_scale=course.scaler.get_scale() if scaled else None,
            lowest_loss_scale=counts.lowest_scale if scaled else None,
            num_nonfinite=counts.num_nonfinite,
            first_nonfinite=counts.first_nonfinite,
            has_collapsed=has_collapsed(course.scaler.get_scale() if scaled else None, self._num_left_out),
            waited_s=None,
            train_s=train_s,
        )

    def train_steps(self, num_steps: int, tally: Tally, clock: Clock) -> None:
        """Lets the function make so many steps; ``clock`` ticks in its thread, without what it does between epochs."""
        self._course.clock = clock
        try:
            self._go_on(num_steps)
        finally:
            self._course.clock = None

    def train_step(self, tally: Tally, want_norm: bool = False) -> None:
        """Lets the function make a step."""
        self._go_on(1)

    def _go_on(self, num_steps: int) -> None:
        course = self._course
        while num_steps:
            if self._turns.has_ended:
                self._begin()
            before, course.left = course.steps, num_steps
            self._turns.resume()
            num_steps -= course.steps - before

    def _until_report(self) -> None:
        course = self._course
        if course.reported is None:
            course.left = None
            self._turns.resume()
        reported = course.take_report()
        if reported is not None and course.steps == course.reported_at:
            self._last = reported
        elif course.is_broken:
            self._last = Reported({}, {}, None)
        else:
            num = course.steps - course.reported_at
            when = "at the end of each epoch" if self._spec.budget.max_steps is None else "wherever run.should_report"
            condition = f"must report after its last step, got {num} steps without"
            raise TaskError(f"{self._named} {condition}; call run.report(...) {when}")

    def evaluate(self, max_batches: int | None = None) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
        """What it reported last, which is for it to measure; nothing in a probe.

        Raises:
            TaskError: a metric that trials are ranked by, or stop at, is not in it.
        """
        values = self._last.values
        for field, metric in self._wanted:
            if values and metric not in values:
                found = ", ".join(values)
                raise TaskError(f"{self._named} must report the metric {metric}, got {found}; give {field}")
        return values, self._last.examples

    @property
    def _wanted(self) -> list[tuple[str, str]]:
        """Fields of the sweep and the metrics that they name, which only reports can tell."""
        ranked_by, stopping = self._spec.checkpoints, self._spec.stopping
        found = [("metric", ranked_by.metric)] if ranked_by is not None else []
        return found + [("stop_at", name) for name in (stopping.targets if stopping is not None else ())]

    @property
    def names(self) -> tuple[str, ...]:
        """Its metrics' columns, which are not known before it reports."""
        return ()


def _seeded(seed: int, function: Trainable, config: dict[str, Any], run: Run) -> None:
    seed_everything(seed)
    function.function(config, run)
