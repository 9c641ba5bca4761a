"""Metrics on their way from a Lightning trainer to W&B, which may be missing or fail."""

import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_log = logging.getLogger(__name__)


class WandbSink:
    """Hands metrics to W&B and never raises: what goes wrong is said once, in the log."""

    def __init__(self) -> None:
        self._warned = False

    def log(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        """Logs metrics through each of the trainer's ``WandbLogger``, or without one to the active W&B run.

        Args:
            trainer: whose ``global_step`` is the metrics' ``trainer/global_step``.
            metrics: name -> number or text.
        """
        num_targets = 0
        try:
            for send in _targets(trainer):
                num_targets += 1
                self._send(send, metrics)
        except Exception as error:
            self.warn(f"metrics cannot be logged to W&B: {error!r}")
        if not num_targets:
            self.warn("there is no W&B run to log to; give the Trainer a WandbLogger, or call wandb.init() before fit")

    def _send(self, send: Callable[[dict[str, Any]], object], metrics: dict[str, Any]) -> None:
        try:
            send(dict(metrics))
        except Exception as error:
            self.warn(f"metrics cannot be logged to W&B: {error!r}")

    def warn(self, message: str) -> None:
        """Says the first thing that went wrong, in the log: a warning would raise where warnings are errors."""
        if not self._warned:
            _log.warning("AmpWandbCallback: %s; training goes on, and this is said once", message)
        self._warned = True


def _targets(trainer: "Trainer") -> Iterator[Callable[[dict[str, Any]], object]]:
    """What takes metrics: the trainer's W&B loggers, else the active run."""
    step = trainer.global_step
    # By name, since each of Lightning's packages has a WandbLogger of its own.
    loggers = [log for log in trainer.loggers if any(kind.__name__ == "WandbLogger" for kind in type(log).__mro__)]
    for logger in loggers:
        yield lambda metrics, logger=logger: logger.log_metrics(metrics, step=step)  # type: ignore[misc]
    # Who has not imported W&B has no run.
    run = getattr(sys.modules.get("wandb"), "run", None)
    if not loggers and run is not None:
        yield lambda metrics: run.log({**metrics, "trainer/global_step": step})
