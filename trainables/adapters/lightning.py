"""Lightning: what a trainer's precision really is, and what mixed precision does in it, to W&B."""

from typing import TYPE_CHECKING, Any

from trainables.adapters.lightning_observe import BatchWatch, is_compiled
from trainables.adapters.lightning_precision import compute_effective_precision
from trainables.adapters.lightning_scaler import SkippedSteps, loss_scale
from trainables.adapters.lightning_wandb import WandbSink

try:
    from lightning.pytorch import Callback
except ImportError:  # the older of its two packages, alone
    from pytorch_lightning import Callback  # type: ignore[assignment]

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer

__all__ = ["AmpWandbCallback", "compute_effective_precision"]


class AmpWandbCallback(Callback):
    """Logs to W&B what mixed precision does: ``Trainer(callbacks=[AmpWandbCallback()])``, of either package.

    - ``amp/effective_precision``: observed by dispatch and canary over the forward and backward of the first batch of
      each ``fit``. Of compiled models, which dispatch cannot see into, and of models without matrix products it is
      :func:`compute_effective_precision`.
    - ``amp/skipped_steps``: optimizer steps that the loss scaler skipped, so far and before a resume; those of fused
      optimizers too, which are called in spite of an overflow. 0 without a scaler; missing under DeepSpeed, which
      scales by itself.
    - ``amp/loss_scale``: after the last step; missing without a scaler.

    The device is waited for only when it logs: every ``every_n_steps``, and at the end of training or an exception.
    Training never fails by it: that W&B is missing, not initialized or failing is said once, in the log.

    Args:
        every_n_steps: optimizer steps between two rows, at least 1; default the trainer's ``log_every_n_steps``, which
            for 0 logs nothing.

    Raises:
        ValueError: ``every_n_steps`` is below 1.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps: must be at least 1, or None for the trainer's own; got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.effective_precision: str | None = None
        """What is logged; ``None`` until the first batch."""
        self.observed = False
        """Whether a step was seen running in it."""
        self._watch, self._skipped, self._sink = BatchWatch(), SkippedSteps(), WandbSink()
        self._logged_at = 0

    @property
    def skipped_steps(self) -> int:
        """Optimizer steps that the loss scaler has skipped; waits for the device."""
        return self._skipped.total()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the skipped steps. The precision may change by a resume, and is observed anew."""
        return {"skipped_steps": self.skipped_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint's count."""
        self._skipped = SkippedSteps(int(state_dict["skipped_steps"]))

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Forgets what an earlier ``fit`` ran in."""
        self.effective_precision, self.observed = None, False
        self._logged_at = trainer.global_step

    def on_train_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int
    ) -> None:
        """Begins to watch the first batch."""
        self._watch.leave()
        if self.effective_precision is None:
            if is_compiled(pl_module):
                self._resolve(trainer, None)
            else:
                self._watch.begin(trainer.strategy.root_device)

    def on_before_optimizer_step(
        self, trainer: "Trainer", pl_module: "LightningModule", optimizer: "Optimizer"
    ) -> None:
        """Notes whether the step will be skipped; an optimizer's own products are not the model's."""
        if pl_module.automatic_optimization:
            self._judge(trainer, pl_module)
        self._skipped.begin(trainer.scaler, optimizer)

    def on_train_batch_end(
        self, trainer: "Trainer", pl_module: "LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Names what the first batch ran in, and logs where it is time."""
        self._judge(trainer, pl_module)
        self._skipped.end()
        interval = self._interval(trainer)
        if interval and trainer.global_step // interval > self._logged_at // interval:
            self._log(trainer)

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Stops watching a batch that the model's ``on_train_batch_start`` skipped."""
        self._watch.leave()

    def on_train_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Logs what the last steps did."""
        self._log_rest(trainer)

    def on_exception(self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException) -> None:
        """Stops watching, and logs what was done so far."""
        self._watch.leave()
        self._skipped.end()
        self._log_rest(trainer)

    def teardown(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Leaves nothing in force, however training ended."""
        self._watch.leave()

    def _judge(self, trainer: "Trainer", module: "LightningModule") -> None:
        if self._watch.is_open:
            name = None
            try:
                name = self._watch.end(module)
            except Exception as error:
                self._sink.warn(f"the step's precision cannot be observed: {error!r}")
            self._resolve(trainer, name)

    def _resolve(self, trainer: "Trainer", observed: str | None) -> None:
        """Takes the observed name, or without one what the trainer asks for."""
        self.observed = observed is not None
        try:
            self.effective_precision = observed or compute_effective_precision(trainer)
        except Exception as error:
            self.effective_precision = "unknown"
            self._sink.warn(f"the trainer's precision cannot be resolved: {error!r}")

    def _interval(self, trainer: Any) -> int:
        return self.every_n_steps if self.every_n_steps is not None else int(trainer.log_every_n_steps)

    def _log_rest(self, trainer: "Trainer") -> None:
        if self._interval(trainer) and trainer.global_step > self._logged_at:
            self._log(trainer)

    def _log(self, trainer: "Trainer") -> None:
        self._logged_at = trainer.global_step
        if not trainer.is_global_zero:
            return
        metrics: dict[str, Any] = {"amp/effective_precision": self.effective_precision}
        try:  # reading from a device that has failed raises
            if not any(kind.__name__ == "DeepSpeedPrecision" for kind in type(trainer.precision_plugin).__mro__):
                metrics["amp/skipped_steps"] = self.skipped_steps
            scale = loss_scale(trainer.scaler)
            if scale is not None:
                metrics["amp/loss_scale"] = scale
        except Exception as error:
            self._sink.warn(f"the loss scaler cannot be read: {error!r}")
        self._sink.log(trainer, metrics)
