"""The same training by the loops that people use; what ``benchmarks/loop.py`` compares ours with."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trainables.tasks.digits import read_digits

BATCH, RATE, DECAY, MAX_NORM = 64, 1e-3, 0.01, 1.0
WARM_UP = 20
"""Steps that are not timed, at the beginning of each turn."""

Contestant = Callable[[int], float]
"""Trains for some steps, and gives the seconds that they took."""


def make() -> tuple[nn.Module, TensorDataset]:
    """The model and its data, the same each time."""
    images, labels = read_digits()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return model, TensorDataset(images.flatten(1), labels)


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """What all use."""
    return torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)


def timed(step: Callable[[], None], num_steps: int) -> float:
    """Seconds of some steps, after others to warm up."""
    for _ in range(WARM_UP):
        step()
    started = time.perf_counter()
    for _ in range(num_steps):
        step()
    return time.perf_counter() - started


def endless(loader: Any) -> Iterator[Any]:
    """A loader's batches, epoch after epoch."""
    while True:
        yield from loader


def make_loader(data: TensorDataset) -> Any:
    """A loader as the documentation has it."""
    return DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True)


def with_loader(model: nn.Module, data: TensorDataset) -> Contestant:
    """The bare loop, fed by a DataLoader."""
    optimizer, batches = make_optimizer(model), endless(make_loader(data))

    def step() -> None:
        inputs, labels = next(batches)
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return lambda num_steps: timed(step, num_steps)


def with_accelerate(model: nn.Module, data: TensorDataset) -> Contestant:
    """The loop of Accelerate's documentation."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(model, make_optimizer(model), make_loader(data))
    batches = endless(loader)

    def step() -> None:
        inputs, labels = next(batches)
        loss = nn.functional.cross_entropy(model(inputs), labels)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return lambda num_steps: timed(step, num_steps)


class Clock:
    """Takes the time after a step that it is told of, and after the last one."""

    def __init__(self, num_steps: int) -> None:
        self._times: list[float] = []
        self._first, self._last = WARM_UP, WARM_UP + num_steps

    def after(self, step: int) -> None:
        """Step number ``step``, from 1, is done."""
        if step in (self._first, self._last):
            self._times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Between both."""
        started, ended = self._times
        return ended - started


def with_lightning(model: nn.Module, data: TensorDataset) -> Contestant:
    """Lightning's Trainer, without its logger, checkpoints and bar."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return make_optimizer(self.model)

    class Timer(lightning.Callback):
        def __init__(self, clock: Clock) -> None:
            self.clock = clock

        def on_train_batch_end(self, trainer: Any, *others: Any) -> None:
            self.clock.after(trainer.global_step)

    def run(num_steps: int) -> float:
        clock = Clock(num_steps)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_steps=WARM_UP + num_steps,
            gradient_clip_val=MAX_NORM,
            enable_model_summary=False,
            callbacks=[Timer(clock)],
            **quiet,
        )
        trainer.fit(Module(), make_loader(data))
        return clock.seconds

    return run


def with_transformers(model: nn.Module, data: TensorDataset) -> Contestant:
    """Hugging Face's Trainer, without its logs, checkpoints and bar."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class Labelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.model(inputs)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    class Timer(TrainerCallback):
        def __init__(self, clock: Clock) -> None:
            self.clock = clock

        def on_step_end(self, arguments: Any, state: Any, control: Any, **others: Any) -> None:
            self.clock.after(state.global_step)

    rows = [{"inputs": inputs, "labels": label} for inputs, label in data]

    def run(num_steps: int) -> float:
        clock = Clock(num_steps)
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                max_steps=WARM_UP + num_steps,
                per_device_train_batch_size=BATCH,
                dataloader_drop_last=True,
                optim="adamw_torch_fused",
                learning_rate=RATE,
                weight_decay=DECAY,
                max_grad_norm=MAX_NORM,
                lr_scheduler_type="constant",
                use_cpu=True,
                disable_tqdm=True,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
            )
            trainer = Trainer(Labelled(), arguments, train_dataset=rows, callbacks=[Timer(clock)])
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return clock.seconds

    return run
