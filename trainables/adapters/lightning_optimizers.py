"""What a Lightning module's ``configure_optimizers`` returns, as our loop takes it: one optimizer and its schedules."""

from collections.abc import Mapping
from typing import Any, NoReturn

from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trainables.adapters.lightning_steps import NoTrainer
from trainables.loading import TaskError

FIELD = "task: configure_optimizers"


def read_optimizers(made: Any) -> tuple[Optimizer | None, list[Mapping[str, Any]]]:
    """The optimizer and its schedules, each as ``{"scheduler": ..., "interval": ..., "frequency": ...}``.

    Args:
        made: what ``configure_optimizers`` returned, in any of the forms that Lightning knows.

    Raises:
        TaskError: several optimizers, or what our loop cannot serve.
    """
    if made is None:
        return None, []
    if isinstance(made, Mapping):
        schedules = [made["lr_scheduler"]] if made.get("lr_scheduler") is not None else []
        return _checked(made.get("optimizer"), schedules)
    if isinstance(made, tuple | list):
        if len(made) == 2 and isinstance(made[0], tuple | list):
            return _checked(_only(made[0]), list(made[1]))
        return read_optimizers(_only(made))
    return _checked(made, [])


def _only(made: Any) -> Any:
    if len(made) != 1:
        _refuse("must return one optimizer", len(made), "train by a function of your own, marked @trainable")
    return made[0]


def _refuse(condition: str, got: object, remedy: str) -> NoReturn:
    raise TaskError(f"{FIELD} {condition}, got {got}; {remedy}")


def _checked(optimizer: Any, schedules: list[Any]) -> tuple[Optimizer, list[Mapping[str, Any]]]:
    if not isinstance(optimizer, Optimizer):
        _refuse("must return a torch.optim.Optimizer", type(optimizer).__name__, "correct what it returns")
    if isinstance(optimizer, LBFGS):
        _refuse("must return an optimizer that needs no closure", "LBFGS", "choose another")
    given = [each if isinstance(each, Mapping) else {"scheduler": each} for each in schedules]
    for each in given:
        if not hasattr(each.get("scheduler"), "step"):
            _refuse("must return schedules that have step()", type(each.get("scheduler")).__name__, "correct it")
        if isinstance(each["scheduler"], ReduceLROnPlateau):
            _refuse("must return schedules of the step alone", "ReduceLROnPlateau", "choose another")
        if each.get("interval", "epoch") not in ("epoch", "step"):
            _refuse("must return schedules with the interval epoch or step", repr(each["interval"]), "correct it")
    return optimizer, given


class Schedules:
    """Steps a module's schedules as Lightning does.

    Args:
        given: as of :func:`read_optimizers`.
        trainer: what the module takes for its trainer, which knows the steps so far.
        steps_per_epoch: optimizer steps in each epoch.
    """

    def __init__(self, given: list[Mapping[str, Any]], trainer: NoTrainer, steps_per_epoch: int) -> None:
        self._given, self._trainer, self._steps_per_epoch = given, trainer, steps_per_epoch

    def step(self) -> None:
        """An optimizer step was made; as in Lightning, a frequency of steps counts from each epoch's first."""
        epoch, before = divmod(self._trainer.global_step - 1, self._steps_per_epoch)
        ended = epoch + 1 if before + 1 == self._steps_per_epoch else None
        for each in self._given:
            count = before + 1 if each.get("interval", "epoch") == "step" else ended
            if count is not None and count % each.get("frequency", 1) == 0:
                each["scheduler"].step()

    def state_dict(self) -> dict[str, Any]:
        """What the schedules keep."""
        return {"given": [each["scheduler"].state_dict() for each in self._given]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what :meth:`state_dict` gave."""
        for each, kept in zip(self._given, state["given"], strict=True):
            each["scheduler"].load_state_dict(kept)
