"""The fine-tuning loop: scale, backward, unscale, clip, step, update, in that order, without a device sync per step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainables.compiler import CompiledModel
from trainables.data import TrainingData
from trainables.float8 import to_float8
from trainables.hyperparameters import Hyperparameters
from trainables.isolation import weights_digest
from trainables.ladder import Precision
from trainables.optim import learning_rate_factor, make_optimizer
from trainables.outputs import default_loss, make_forward, upcast
from trainables.precision import autocast, make_scaler
from trainables.routes import DEFAULT, take_route
from trainables.task import Batch, Task


@dataclass(frozen=True)
class Progress:
    """What some steps of training came to.

    Args:
        train_loss: mean loss over the steps that were applied; NaN where none was.
        grad_norm: gradient norm of the last step, before clipping.
        learning_rate: of the last step.
        applied_steps: steps since the run's start whose update reached the parameters.
        loss_scale: after the last step; ``None`` without a scaler.
    """

    train_loss: float
    grad_norm: float
    learning_rate: float
    applied_steps: int
    loss_scale: float | None


class Loop:
    """A model in training: its optimizer, scaler, schedule and data.

    Args:
        task: as built for this configuration; its model is moved to the device and its precision's parameter dtype.
        hyper: the loop's hyperparameters.
        precision: an entry of the ladder, whose :func:`trainables.precision.numerics` the caller keeps in force.
        seed: of the data order.
        device: where it trains.
        num_steps: of the whole run, for the schedule; ``None``: the schedule stays at its start (timing, probing).
        route: one of :data:`trainables.routes.ROUTES`.
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
    ) -> None:
        self.route = route
        self.task, self.hyper, self.precision, self.device = task, hyper, precision, device
        self.dtype = None if precision.parameters == "float32" else getattr(torch, precision.parameters)
        self.init_digest = weights_digest(task.model)
        self.model = task.model.to(device=device, dtype=self.dtype)
        if precision.scaling:
            self.model = to_float8(self.model, precision.scaling)
        take_route(route, self.model)
        self.data = TrainingData(task, hyper.batch_size, hyper.accumulate_steps, seed, device, self.dtype)
        self.scaler = make_scaler(precision, device)
        self.optimizer = make_optimizer(task, hyper)
        self.autocast = autocast(precision, device)
        self.step = 0
        self._forward = self._train_forward = make_forward(self.model)
        self._loss = task.loss or default_loss
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._batches = self.data.batches()
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)
        self._losses: torch.Tensor | None = None
        self._applied_before = 0
        self._base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._factors = self._schedule(num_steps)
        self._device_factors: torch.Tensor | None = None
        if self.scaler is not None and self._factors:
            self._device_factors = torch.tensor(self._factors, device=device)
            for group in self.optimizer.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=device)

    def _schedule(self, num_steps: int | None) -> list[float]:
        """The learning rate's factor at every step; empty where it never changes."""
        hyper = self.hyper
        if num_steps is None or (hyper.lr_schedule == "constant" and round(hyper.warmup_frac * num_steps) == 0):
            return []
        return [learning_rate_factor(i, num_steps, hyper.warmup_frac, hyper.lr_schedule) for i in range(num_steps)]

    @property
    def is_compiled(self) -> bool:
        """Whether training steps run compiled."""
        return self._train_forward is not self._forward

    def train_by(self, compiled: CompiledModel) -> None:
        """Calls a compiled model in training from now on; evaluation stays eager, the same arithmetic for all."""
        self._train_forward = make_forward(self.model, compiled)

    def forward(self, batch: Batch) -> tuple[Any, torch.Tensor]:
        """A batch's outputs and loss, in the precision's autocast."""
        with self.autocast:
            outputs = (self._train_forward if self.model.training else self._forward)(batch)
            if self.dtype is not None:
                outputs = upcast(outputs)
            return outputs, self._loss(outputs, batch)

    def train(self, num_steps: int, after_step: Callable[[], object] | None = None) -> Progress:
        """Runs optimizer steps and waits for the device once, at the end.

        Args:
            num_steps: that are left of the interval; what was taken up in the middle of one counts into its figures.
            after_step: called after each step but the last.
        """
        self.model.train()
        if self._losses is None:
            self._losses = torch.zeros((), device=self.device)
            self._applied_before = self.step - int(self._skipped)
        norm: torch.Tensor | None = None
        for left in reversed(range(num_steps)):
            norm = self.train_step(self._losses, want_norm=left == 0)
            if left and after_step is not None:
                after_step()
        applied = self.step - int(self._skipped)
        num_applied = applied - self._applied_before
        progress = Progress(
            train_loss=float(self._losses) / num_applied if num_applied else float("nan"),
            grad_norm=float("nan") if norm is None else float(norm),
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            applied_steps=applied,
            loss_scale=self.scaler.get_scale() if self.scaler else None,
        )
        self._losses = None
        return progress

    def state_dict(self) -> dict[str, Any]:
        """All that the steps to come depend on, up to the random generators: tensors and plain data."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "step": self.step,
            "skipped": int(self._skipped),
            "losses": self._losses,
            "applied_before": self._applied_before,
            "data": self.data.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what :meth:`state_dict` gave; hyperparameters remain this loop's own."""
        self.model.load_state_dict(state["model"])
        own = self.optimizer.state_dict()["param_groups"]
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": own})
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate  # loading copies it; a tensor must stay on its device
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self._skipped.fill_(state["skipped"])
        self._losses = None if state["losses"] is None else state["losses"].to(self.device)
        self._applied_before = state["applied_before"]
        self.data.load_state_dict(state["data"])
        self._batches = self.data.batches(self.step)

    def train_step(self, losses: torch.Tensor, want_norm: bool = False) -> torch.Tensor | None:
        """One optimizer step; adds its loss to ``losses`` and returns the gradient norm where it was computed."""
        parts = next(self._batches)
        self._set_learning_rate()
        loss = self._backward(parts)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = self._clip(want_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            loss = self._scaled_step(loss)
        self.optimizer.zero_grad(set_to_none=True)
        losses += loss
        self.step += 1
        return norm

    def _backward(self, parts: list[Batch]) -> torch.Tensor:
        total: torch.Tensor | None = None
        for batch, share in zip(parts, self.data.shares, strict=True):
            loss = self.forward(batch)[1]
            if len(parts) > 1:
                loss = loss * share
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def _clip(self, want_norm: bool) -> torch.Tensor | None:
        if self.hyper.max_grad_norm is not None:
            return torch.nn.utils.clip_grad_norm_(self._parameters, self.hyper.max_grad_norm)
        if want_norm:
            return torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        return None

    def _scaled_step(self, loss: torch.Tensor) -> torch.Tensor:
        """Steps unless a gradient overflowed; counts a skipped step and returns its loss as 0."""
        assert self.scaler is not None
        # The public ways to learn of a skip either wait for the device or are wrong for fused optimizers.
        found = torch.stack([f.to(self.device) for f in self.scaler._found_inf_per_device(self.optimizer).values()])
        skipped = (found.max() > 0).squeeze()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._skipped += skipped
        return torch.where(skipped, torch.zeros_like(loss), loss)

    def _set_learning_rate(self) -> None:
        """The schedule's rate at the number of applied steps, which with a scaler only the device knows."""
        if self._device_factors is not None:
            # Indexing with a tensor of no dimensions would wait for the device.
            factor = self._device_factors.take((self.step - self._skipped).clamp(max=len(self._factors) - 1))
            for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
                group["lr"].copy_(base * factor)
        elif self._factors:
            now = self._factors[min(self.step, len(self._factors) - 1)]
            for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
                group["lr"] = base * now
