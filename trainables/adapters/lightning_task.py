"""A Lightning module as a task: our loop trains it, without a Trainer, so that all that holds of tasks holds of it."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from trainables.adapters.lightning_optimizers import Schedules, read_optimizers
from trainables.adapters.lightning_steps import SERVED, Logged, NoTrainer, is_metric, training_loss
from trainables.hyperparameters import RESERVED, Hyperparameters
from trainables.loading import TaskError
from trainables.spec import Budget
from trainables.task import Batch, Task

OPTIMIZER_S, SCHEDULE_S = ("learning_rate", "weight_decay", "optimizer"), ("lr_schedule", "warmup_frac")
"""Hyperparameters that our own optimizer and schedule would read."""

BATCH_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
"""Methods by which a module or its data module changes batches on their way."""

UNSERVED = (
    *("backward", "optimizer_step", "optimizer_zero_grad", "lr_scheduler_step", "configure_gradient_clipping"),
    *("configure_model", "configure_sharded_model", "configure_callbacks", "transfer_batch_to_device"),
)
"""Methods that a Trainer would call; with them all hooks for training, batches and gradients."""

_UNCALLED = ("on_test", "on_predict", "on_save_checkpoint", "on_load_checkpoint")
"""Hooks that have nothing to do with training."""


def make_module(kind: type[nn.Module], config: Mapping[str, Any]) -> nn.Module:
    """A module of a class, with those hyperparameters that its ``__init__`` names.

    Raises:
        TaskError: one is neither named there nor read by the loop, so that it would mean nothing.
    """
    named, takes_any = _parameters(kind)
    unknown = [name for name in config if not takes_any and name not in named and name not in RESERVED]
    if unknown:
        condition = f"task: {kind.__name__}.__init__ must name every hyperparameter that the loop does not read"
        raise TaskError(f"{condition}, got {', '.join(unknown)}; it names {', '.join(named) or 'none'}")
    return kind(**{name: value for name, value in config.items() if takes_any or name in named})


def _parameters(kind: type[nn.Module]) -> tuple[list[str], bool]:
    parameters = list(inspect.signature(kind).parameters.values())
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    return [each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)], takes_any


def task_of(module: Any, data: Any, config: Mapping[str, Any], budget: Budget | None) -> Task:
    """The task that a module is.

    Args:
        module: a Lightning module.
        data: has the data loaders: a ``LightningDataModule``, or the module itself.
        config: what it was made from.
        budget: of the trial; ``None`` where it is not to be trained.

    Raises:
        TaskError: it needs what only a Trainer can give, or has no data.
    """
    _check_hooks(module, data)
    trainer = module._trainer = NoTrainer(None if data is module else data)
    for each in {id(part): part for part in (data, module)}.values():
        each.prepare_data()
        each.setup("fit")
    train, val = _loader(data, "train_dataloader"), _loader(data, "val_dataloader")
    if train.collate_fn != val.collate_fn:
        _refuse("the data loaders", "must have one collate_fn", "two", "give both the same")
    num_workers = min(train.num_workers, torch.get_num_threads() - 1)
    if budget is not None:
        hyper = Hyperparameters.of({"batch_size": train.batch_size} | dict(config))
        trainer.plan(budget, hyper.steps_per_epoch(len(train.dataset)))  # type: ignore[arg-type]
    steps = _Steps(module, trainer, config, (train, val))
    return Task(
        module,
        train.dataset,
        val.dataset,
        loss=lambda outputs, batch: outputs["loss"],
        metrics=steps.new_pass,
        collate=None if train.collate_fn is default_collate else train.collate_fn,
        num_workers=num_workers,
        remarks=[*_cut_workers(train, num_workers), *steps.remarks],
        batch_size=train.batch_size,
        val_batch_size=val.batch_size,  # which means of batches depend on, unless they are means of examples
        forward=steps.forward,
        optimizer=steps.optimizer,
        scheduler=steps.scheduler,
        at_step=steps.at_step,
    )


def _cut_workers(loader: DataLoader[Any], num_workers: int) -> list[str]:
    """What to say where a trial has not the CPUs for a loader's workers, which would take them from the training."""
    wanted = loader.num_workers
    if num_workers == wanted or (isinstance(loader.dataset, TensorDataset) and loader.collate_fn is default_collate):
        return []
    give = f"give --cpus-per-trial {wanted + 1} for all of them"
    return [f"train_dataloader asks for {wanted} workers, of which a trial has CPUs for {num_workers}; {give}"]


def _refuse(what: str, condition: str, got: object, remedy: str) -> NoReturn:
    raise TaskError(f"task: {what} {condition}, got {got}; {remedy}")


def _base(kind: type) -> type:
    """Lightning's own class, of whichever of its two packages."""
    return next(each for each in kind.__mro__ if each.__name__ == "LightningModule")


def _check_hooks(module: Any, data: Any) -> None:
    kind, base = type(module), _base(type(module))
    hooks = [name for name in dir(base) if name.startswith("on_") and name not in SERVED]
    hooks = [name for name in hooks if not name.startswith(_UNCALLED)]
    _refuse_own(kind, base, (*UNSERVED, *hooks))
    _refuse_own(type(data), base, BATCH_HOOKS)  # which data modules have from the same class as modules
    if not module.automatic_optimization:
        remedy = "train by a function of your own, marked @trainable"
        _refuse(kind.__name__, "must have automatic_optimization", False, remedy)
    for name in ("training_step", "validation_step"):
        if getattr(kind, name) is getattr(base, name):
            _refuse(kind.__name__, f"must define {name}", "none", "add it")


def _refuse_own(kind: type, base: type, names: Iterable[str]) -> None:
    own = [name for name in names if getattr(kind, name, None) not in (None, getattr(base, name, None))]
    if own:
        remedy = "leave it out, or train by a function of your own, marked @trainable"
        _refuse(kind.__name__, "must not have methods that only a Trainer calls", ", ".join(own), remedy)


def _loader(data: Any, name: str) -> DataLoader[Any]:
    try:
        loader = getattr(data, name)()
    except Exception as error:  # Lightning's own, where it is not defined
        remedy = f"define {name}, or give a function that returns (module, datamodule)"
        raise TaskError(
            f"task: {name} must return a data loader, got {type(error).__name__}: {error}; {remedy}"
        ) from error
    if isinstance(loader, tuple | list) and len(loader) == 1:
        loader = loader[0]
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        _refuse(name, "must return one torch DataLoader with a batch_size", type(loader).__name__, "correct it")
    if isinstance(loader.dataset, IterableDataset):
        _refuse(name, "must load a data set with len() and []", type(loader.dataset).__name__, "give it these")
    ordered = isinstance(loader.sampler, RandomSampler | SequentialSampler)
    if type(loader.batch_sampler) is not BatchSampler or not ordered:
        kind = type(loader.sampler if not ordered else loader.batch_sampler).__name__
        _refuse(name, "must leave the order to the loop, which shuffles by the seed", kind, "leave the sampler out")
    return loader


class _Steps:
    """What the task's functions share: the module, its stand-in for a trainer, and the pass over validation data."""

    def __init__(
        self, module: Any, trainer: NoTrainer, config: Mapping[str, Any], loaders: tuple[DataLoader[Any], ...]
    ) -> None:
        self._module, self._trainer, self._config = module, trainer, config
        self._train_items, self._val_items = (
            isinstance(each.dataset, TensorDataset) and each.collate_fn is default_collate for each in loaders
        )
        self._in_eval = [part for part in module.modules() if part is not module and not part.training]
        self._pass: Logged | None = None
        self._schedules: list[Mapping[str, Any]] = []
        self._trained_metrics: dict[str, Any] = {}

    @property
    def remarks(self) -> list[str]:
        num = len(self._in_eval)
        return [f"of the module, {num} parts are in evaluation mode, and stay so in training"] if num else []

    def forward(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        if isinstance(batch, torch.Tensor) and (self._train_items if model.training else self._val_items):
            batch = [batch]  # as a loader collates the items of a TensorDataset, be it of one tensor
        if not model.training:
            assert self._pass is not None
            return {"loss": self._pass.validate(batch)}
        for part in self._in_eval:
            part.training = False
        return {"loss": training_loss(model, batch, self._trainer.batch_idx, self._log)}

    def _log(self, name: str, value: Any, *_: Any, **options: Any) -> None:
        """Of what is logged in training nothing is kept, but metric objects must not grow for ever."""
        if is_metric(value):
            self._trained_metrics[name] = value

    def at_step(self, step: int, steps_per_epoch: int) -> None:
        self._trainer.move_to(step, steps_per_epoch, validates=not self._module.training)
        if self._module.training and self._trainer.batch_idx == 0:
            for metric in self._trained_metrics.values():
                metric.reset()

    def new_pass(self) -> Logged:
        self._pass = Logged(self._module)
        return self._pass

    def optimizer(self, model: Any) -> Optimizer | None:
        if type(model).configure_optimizers is _base(type(model)).configure_optimizers:  # type: ignore[attr-defined]
            return None
        optimizer, self._schedules = read_optimizers(model.configure_optimizers())
        if optimizer is not None:
            self._refuse_unread()
        return optimizer

    def _refuse_unread(self) -> None:
        """Hyperparameters that the module's own optimizer and schedule leave without a meaning."""
        named, takes_any = _parameters(type(self._module))
        unread = OPTIMIZER_S + (SCHEDULE_S if self._schedules else ())
        lost = [name for name in unread if name in self._config and name not in named and not takes_any]
        if lost:
            condition = "must name the hyperparameters of its own configure_optimizers"
            _refuse(f"{type(self._module).__name__}.__init__", condition, ", ".join(lost), "rename them in the space")

    def scheduler(self, optimizer: Optimizer, steps_per_epoch: int) -> Schedules:
        return Schedules(self._schedules, self._trainer, steps_per_epoch)
