"""The fine-tuning loop: scale, backward, unscale, clip, step, update, in that order, without a device sync per step."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from trainables.budgeted import Budgeted, Clock
from trainables.compiler import CompiledModel, CompileError
from trainables.data import TrainingData
from trainables.float8 import to_float8
from trainables.hyperparameters import Hyperparameters
from trainables.isolation import weights_digest
from trainables.joined import Joined
from trainables.ladder import Precision
from trainables.optim import lay_out_state, make_optimizer
from trainables.outputs import default_loss, make_forward, upcast
from trainables.precision import autocast, make_scaler
from trainables.progress import Progress
from trainables.routes import DEFAULT, take_layout
from trainables.schedule import Schedule
from trainables.sharded import shard, shares, shares_of_optimizer, whole
from trainables.tally import Before, Counts, Tally, has_collapsed
from trainables.task import Batch, Task
from trainables.team import ALONE, Alarm, Team

LOOK_EVERY_S = 2.0
"""Seconds of training after which a loop looks whether it is still worth its time; each look waits for the device."""


class Loop(Budgeted):
    """A model in training: its optimizer, scaler, schedule and data.

    Args:
        task: as built for this configuration; its model is moved to the device and its precision's parameter dtype.
        hyper: the loop's hyperparameters.
        precision: an entry of the ladder; the caller keeps :func:`trainables.precision.numerics` of it and the route in
            force.
        seed: of the data order.
        device: where it trains.
        num_steps: of the whole run, for the schedule; ``None``: the schedule stays at its start (timing, probing).
        route: one of :data:`trainables.routes.ROUTES`.
        team: whose workers train it together: each has a loop of its own, and a share of every batch.
        is_sharded: whether each of them has but a share of the model as well, of its gradients and optimizer state.
    """

    def __init__(
        self,
        task: Task,
        hyper: Hyperparameters,
        precision: Precision,
        seed: int,
        device: torch.device,
        num_steps: int | None = None,
        route: str = DEFAULT,
        team: Team = ALONE,
        is_sharded: bool = False,
    ) -> None:
        self.route, self.team, self.is_sharded = route, team, is_sharded
        self.task, self.hyper, self.precision, self.device = task, hyper, precision, device
        self.dtype = None if precision.parameters == "float32" else getattr(torch, precision.parameters)
        self.init_digest = weights_digest(task.model)
        self.model = task.model.to(device=None if is_sharded else device, dtype=self.dtype)
        if precision.scaling:
            self.model = to_float8(self.model, precision.scaling)
        take_layout(route, self.model)
        if is_sharded:
            shard(self.model, device)
        own_data = TrainingData(task, hyper.batch_size, hyper.accumulate_steps, seed, device, self.dtype, team)
        self.data: TrainingData = own_data
        self.scaler = make_scaler(precision, device)
        self.optimizer = make_optimizer(task, hyper)
        self.autocast = autocast(precision, device)
        self.step = 0
        forward = make_forward(self.model) if task.forward is None else partial(task.forward, self.model)
        self._forward = self._train_forward = forward
        self._joined: Joined | None = None
        self._loss = task.loss or default_loss
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._batches = self.data.batches()
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)
        self._tally: Tally | None = None
        self._applied_before, self._last_applied = 0, Before(0, 0)
        own = task.scheduler(self.optimizer, self.data.steps_per_epoch) if task.scheduler and num_steps else None
        only_there = device if self.scaler is not None else None
        self._schedule = Schedule(self.optimizer, hyper, num_steps, only_there, own)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know of how the task was built."""
        counts = [(p.numel(), p.requires_grad) for p in self.model.parameters()]
        trained, total = sum(num for num, trains in counts if trains), sum(num for num, _ in counts)
        part = [f"trains {trained:,} of {total:,} parameters ({trained / total:.2%})"] if trained < total else []
        return (*self.task.remarks, *part)

    @property
    def is_compiled(self) -> bool:
        """Whether training steps run compiled."""
        return self._train_forward is not self._forward

    def train_by(self, compiled: CompiledModel) -> None:
        """Calls a compiled model in training from now on; evaluation stays eager, the same arithmetic for all."""
        if self.task.forward is not None:
            raise CompileError("the task calls its model itself; leave compile off, or compile the model in it")
        self._train_forward = make_forward(self.model, compiled)

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """Calls the model itself in training, too, inside the ``with``."""
        compiled, self._train_forward = self._train_forward, self._forward
        try:
            yield
        finally:
            self._train_forward = compiled

    def tell_step(self) -> None:
        """Tells the task where training stands, if it wants to know."""
        if self.task.at_step is not None:
            self.task.at_step(self.step, self.data.steps_per_epoch)

    def join(self, has_unused: bool) -> None:
        """Has gradients averaged over the team's workers from now on, while they are computed.

        Args:
            has_unused: whether there are parameters that a step leaves without a gradient, which has to be looked for.
        """
        self._joined = Joined(self.model, lambda batch: self.forward(batch)[1], has_unused)

    def forward(self, batch: Batch) -> tuple[Any, torch.Tensor]:
        """A batch's outputs and loss, in the precision's autocast."""
        with self.autocast:
            outputs = (self._train_forward if self.model.training else self._forward)(batch)
            if self.dtype is not None:
                outputs = upcast(outputs)
            return outputs, self._loss(outputs, batch)

    def train(self, num_steps: int, after_step: Callable[[], object] | None = None) -> Progress:
        """Runs optimizer steps and waits for the device once, at the end, and once in :data:`LOOK_EVERY_S`.

        It ends before its time when a loss is not finite, or when the loss scale has collapsed.

        Args:
            num_steps: that are left of the interval; what was taken up in the middle of one counts into its figures.
            after_step: called after each step but the last.
        """
        self.model.train()
        if self._tally is None:
            self._tally = Tally(self.device, self.step, self.team)
            self._applied_before = self.step - int(self._skipped)
        norm: torch.Tensor | None = None
        since, look = self._last_applied, Alarm(self.team, LOOK_EVERY_S)
        for left in reversed(range(num_steps)):
            norm = self.train_step(self._tally, want_norm=left == 0)
            if left and look.is_due:
                seen = self._progress(self._tally.read(), since)
                if seen.num_nonfinite or seen.has_collapsed:
                    break
                since = since if seen.applied_steps == since.applied_steps else Before(self.step, seen.applied_steps)
                look.set(LOOK_EVERY_S)
            if left and after_step is not None:
                after_step()
        else:
            since = self._last_applied
        progress = self._progress(self._tally.read(), since, norm)
        if progress.applied_steps > self._last_applied.applied_steps:
            self._last_applied = Before(self.step, progress.applied_steps)
        self._tally = None
        self.team.spread(self.model.buffers())  # statistics that each has of its own share
        return progress

    def _progress(self, counts: Counts, since: Before, norm: torch.Tensor | None = None) -> Progress:
        """What the interval came to so far; ``since`` is where it was last seen that a step had been applied."""
        applied = self.step - int(self._skipped)
        num_applied = applied - self._applied_before
        scale = self.scaler.get_scale() if self.scaler else None
        return Progress(
            train_loss=counts.loss_sum / num_applied if num_applied else float("nan"),
            grad_norm=float("nan") if norm is None else float(whole(norm)),
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            applied_steps=applied,
            loss_scale=scale,
            lowest_loss_scale=counts.lowest_scale if self.scaler else None,
            num_nonfinite=counts.num_nonfinite,
            first_nonfinite=counts.first_nonfinite,
            has_collapsed=has_collapsed(scale, self.step - since.step if applied == since.applied_steps else 0),
            waited_s=counts.waited_s,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the steps to come depend on, up to the random generators: tensors and plain data."""
        return {
            "model": whole(self.model.state_dict(), self.team.is_first),
            "optimizer": whole(self.optimizer.state_dict()["state"], self.team.is_first),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "step": self.step,
            "skipped": int(self._skipped),
            "tally": None if self._tally is None else self._tally.state_dict(),
            "applied_before": self._applied_before,
            "last_applied": tuple(self._last_applied),
            "schedule": self._schedule.state_dict(),
            "data": self.data.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what :meth:`state_dict` gave; hyperparameters remain this loop's own."""
        self.model.load_state_dict(shares(state["model"], self.model.state_dict()))
        own = self.optimizer.state_dict()["param_groups"]
        rates = [group["lr"] for group in self.optimizer.param_groups]
        moments = shares_of_optimizer(state["optimizer"], self._parameters)
        self.optimizer.load_state_dict({"state": moments, "param_groups": own})
        lay_out_state(self.optimizer)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate  # loading copies it; a tensor must stay on its device
        self._schedule.load_state_dict(state.get("schedule"))
        # A state of another precision has no scale, and at 0 or infinity a scale stays for good.
        if self.scaler is not None and 0 < (state["scaler"] or {}).get("scale", 0) < math.inf:
            self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self._skipped.fill_(state["skipped"])
        self._tally = None
        if state["tally"] is not None:
            self._tally = Tally(self.device, team=self.team)
            self._tally.load_state_dict(state["tally"])
        self._applied_before = state["applied_before"]
        self._last_applied = Before(*state.get("last_applied", (self.step, self._applied_before)))
        self.data.load_state_dict(state["data"])
        self._batches = self.data.batches(self.step)

    def train_steps(self, num_steps: int, tally: Tally, clock: Clock) -> None:
        """Steps as :meth:`train_step` makes them; ``clock`` ticks after each."""
        for _ in range(num_steps):
            self.train_step(tally)
            clock.tick()

    def train_step(self, tally: Tally, want_norm: bool = False) -> torch.Tensor | None:
        """One optimizer step; adds its loss to ``tally`` and returns the gradient norm where it was computed."""
        asked_at = time.perf_counter()
        parts = next(self._batches)
        tally.waited_s += time.perf_counter() - asked_at
        self.tell_step()
        self._schedule.set_rate(self.step, self._skipped)
        loss = self._backward(parts)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = self._clip(want_norm)
        if self.scaler is None:
            self.optimizer.step()
            tally.add(loss)
        else:
            skipped = self._scaled_step(self.scaler)
            tally.add(loss, skipped, self.scaler._scale)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return norm

    def _backward(self, parts: list[Batch]) -> torch.Tensor:
        total: torch.Tensor | None = None
        for index, (batch, share) in enumerate(zip(parts, self.data.shares, strict=True), 1):
            if self._joined is None:
                loss = self.forward(batch)[1]
            else:
                loss = self._joined.loss(batch, is_last=index == len(parts))
            if share != 1:
                loss = loss * share
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            value = loss.detach() if loss._base is None else loss.detach().clone()  # a view would keep its base
            total = value if total is None else total + value
        assert total is not None
        return total

    def _clip(self, want_norm: bool) -> torch.Tensor | None:
        if self.hyper.max_grad_norm is not None:
            return torch.nn.utils.clip_grad_norm_(self._parameters, self.hyper.max_grad_norm)
        if want_norm:
            return torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        return None

    def _scaled_step(self, scaler: torch.amp.GradScaler) -> torch.Tensor:
        """Steps unless a gradient overflowed; counts a skipped step and returns whether it was one."""
        # The public ways to learn of a skip either wait for the device or are wrong for fused optimizers.
        found = [f.to(self.device) for f in scaler._found_inf_per_device(self.optimizer).values()]
        skipped = (found[0] if len(found) == 1 else torch.stack(found).max()).view(()) > 0
        scaler.step(self.optimizer)
        scaler.update()
        self._skipped += skipped
        return skipped
