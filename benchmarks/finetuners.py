"""Who fine-tunes in ``benchmarks/finetune.py``: our loop, one written by hand, and Hugging Face's Trainer."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from trainables.build import build_loop
from trainables.data import grouped_order
from trainables.isolation import seed_everything
from trainables.ladder import LADDER
from trainables.loading import build_task
from trainables.precision import numerics
from trainables.routes import DEFAULT
from trainables.spec import TrialSpec
from trainables.task import Task

RATE, MAX_NORM = 5e-5, 1.0
CPU = torch.device("cpu")

Row = dict[str, torch.Tensor]
"""A text's ``input_ids`` and ``attention_mask`` (T,), and its ``labels`` ()."""


class Contestant(Protocol):
    """Trains a model, a turn after the other."""

    model: nn.Module

    def train(self, num_steps: int, warm_up: int = 0) -> float:
        """The seconds that some steps took, after others that are not timed."""


def make(spec: TrialSpec) -> Task:
    """What all begin with, the same for a seed: model and data, and generators for what the steps draw."""
    seed_everything(spec.seed)
    task = build_task(spec.task, spec.config)
    seed_everything(spec.seed)
    return task


def as_loaded(model: Any) -> Any:
    """The model with the attention that Transformers gives it, where the task has chosen another."""
    if model.config._attn_implementation == "eager" and model._supports_sdpa:
        model.set_attn_implementation("sdpa")
    return model


def rows_of(task: Task) -> list[Row]:
    """The training texts one by one, as tokenised."""
    found = [task.train_set[index] for index in range(len(task.train_set))]  # type: ignore[arg-type]
    return [{name: value[0] for name, value in row.items()} for row in found]


def orders(task: Task, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Which texts each step trains on, without end: our order, in which texts of similar length share a batch."""
    assert task.lengths is not None
    epoch = 0
    while True:
        for batch in grouped_order(task.lengths, batch_size, seed, epoch).split(batch_size):
            if len(batch) == batch_size:
                yield batch.tolist()
        epoch += 1


class Ours:
    """``Loop.train``, as a trial calls it.

    Args:
        spec: of a trial; its precision's numerics are in force while it trains.
        route: of its kernels.
    """

    def __init__(self, spec: TrialSpec, route: str = DEFAULT) -> None:
        self._precision, self._route = LADDER[spec.precision], route
        with numerics(self._precision, route):
            self._loop = build_loop(replace(spec, route=route), self._precision, CPU, num_steps=False)
        self.model = self._loop.model

    def train(self, num_steps: int, warm_up: int = 0) -> float:
        """The seconds that some steps took, after others that are not timed."""
        with numerics(self._precision, self._route):
            if warm_up:
                self._loop.train(warm_up)
            started = time.perf_counter()
            self._loop.train(num_steps)
            return time.perf_counter() - started


class ByHand:
    """The bare loop, on the same batches.

    Args:
        spec: of a trial.
        padding: token id that shorter texts are filled up with.
        fuses: whether attention is as the model was loaded with; else as the task has it, and ours.
    """

    def __init__(self, spec: TrialSpec, padding: int, fuses: bool = False) -> None:
        task = make(spec)
        self.model = as_loaded(task.model) if fuses else task.model
        self._rows, self._padding = rows_of(task), padding
        self._orders = orders(task, spec.config["batch_size"], spec.seed)
        self._autocast = torch.autocast("cpu", torch.bfloat16, enabled=spec.precision == "bf16-mixed")
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=0.0, fused=True)

    def train(self, num_steps: int, warm_up: int = 0) -> float:
        """The seconds that some steps took, after others that are not timed."""
        self.model.train()
        for _ in range(warm_up):
            self._step()
        started = time.perf_counter()
        for _ in range(num_steps):
            self._step()
        return time.perf_counter() - started

    def _step(self) -> None:
        rows = [self._rows[index] for index in next(self._orders)]
        ids = pad_sequence([row["input_ids"] for row in rows], True, self._padding)
        mask = pad_sequence([row["attention_mask"] for row in rows], True)
        labels = torch.stack([row["labels"] for row in rows])
        with self._autocast:
            loss = self.model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad()


class ByTrainer:
    """Hugging Face's Trainer, without its logs, checkpoints and bar, on the model as it was loaded.

    Args:
        spec: of a trial.
        tokenizer: pads its batches.
        groups: whether it groups texts by length itself; else it is handed the batches of the others, which a turn of
            some steps is compared by.
    """

    def __init__(self, spec: TrialSpec, tokenizer: Any, groups: bool) -> None:
        task = make(spec)
        self.model, self._tokenizer, self._groups, self._spec = as_loaded(task.model), tokenizer, groups, spec
        self._rows = [{name: value.tolist() for name, value in row.items()} for row in rows_of(task)]
        self._orders = orders(task, spec.config["batch_size"], spec.seed)

    def train(self, num_steps: int, warm_up: int = 0) -> float:
        """The seconds that some steps took, after others that are not timed."""
        from transformers import DataCollatorWithPadding, PrinterCallback, Trainer

        order = [index for _ in range(warm_up + num_steps) for index in next(self._orders)]

        class Ordered(Trainer):
            def _get_train_sampler(self, train_dataset: Any = None) -> Any:
                return order

        clock = _clock(warm_up, warm_up + num_steps)
        with tempfile.TemporaryDirectory() as folder:
            trainer = (Trainer if self._groups else Ordered)(
                self.model,
                self._arguments(folder, warm_up + num_steps),
                data_collator=DataCollatorWithPadding(self._tokenizer),
                train_dataset=self._rows,
                processing_class=self._tokenizer,
                callbacks=[clock],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return float(clock.ended - clock.started)

    def _arguments(self, folder: str, num_steps: int) -> Any:
        from transformers import TrainingArguments

        return TrainingArguments(
            folder,
            max_steps=num_steps,
            per_device_train_batch_size=self._spec.config["batch_size"],
            train_sampling_strategy="group_by_length" if self._groups else "random",
            dataloader_drop_last=True,
            optim="adamw_torch_fused",
            learning_rate=RATE,
            weight_decay=0.0,
            max_grad_norm=MAX_NORM,
            lr_scheduler_type="constant",
            bf16=self._spec.precision == "bf16-mixed",
            use_cpu=True,
            seed=self._spec.seed,
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
        )


def _clock(first: int, last: int) -> Any:
    """A callback that takes the time after one step (0: before the first) and after a later one."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        started = ended = 0.0

        def on_train_begin(self, arguments: Any, state: Any, control: Any, **others: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, arguments: Any, state: Any, control: Any, **others: Any) -> None:
            if state.global_step == first:
                self.started = time.perf_counter()
            if state.global_step == last:
                self.ended = time.perf_counter()

    return Clock()
