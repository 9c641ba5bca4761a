"""Data sets that read and decode: drawn ahead by processes, the same however many; and the time spent waiting."""

import random
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import multiprocessing
from torch.utils.data import Dataset, TensorDataset

from trainables.data import TrainingData, validation_batches
from trainables.evaluation import Evaluator
from trainables.report import TrialReport
from trainables.spec import Budget, Checkpoints, TrialSpec
from trainables.task import Task
from trainables.trial import run_trial

CPU = torch.device("cpu")
MakeTask = Callable[..., Task]


class Noisy(Dataset[Any]):
    """Items with noise from all three generators, counted where they are drawn."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data
        self.num_drawn = multiprocessing.get_context("fork").Value("i", 0)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        with self.num_drawn.get_lock():
            self.num_drawn.value += 1
        noise = random.gauss(0, 1) + np.random.normal() + torch.randn(8)  # noqa: NPY002 - as augmentation does
        inputs, label = self.data[index]
        return (inputs + noise).float(), label


class Whole(Noisy):
    """The same by the batch, as arrays that ``stack`` takes."""

    def __getitems__(self, indices: list[int]) -> Any:
        rows = [self.data[index] for index in indices]
        inputs = torch.stack([inputs for inputs, _ in rows]).numpy() + np.random.normal(size=(1, 8))  # noqa: NPY002
        return inputs, np.array([int(label) for _, label in rows])


def stack(found: Any) -> Any:
    """A collate that takes what :class:`Whole` gives, and draws, too."""
    inputs, labels = found
    return {"x": torch.from_numpy(inputs).float() + torch.rand(()), "labels": torch.from_numpy(labels)}


def noisy(tiny_task: MakeTask, num_workers: int, kind: type[Noisy] = Noisy, **fields: Any) -> Task:
    task = tiny_task()
    return Task(task.model, kind(task.train_set), kind(task.val_set), num_workers=num_workers, **fields)


def flat(batch: Any) -> list[torch.Tensor]:
    return list(batch.values() if isinstance(batch, dict) else batch)


def drawn(task: Task, num_steps: int, first_step: int = 0, seed: int = 3, num_parts: int = 2) -> list[torch.Tensor]:
    data = TrainingData(task, 16, num_parts, seed, CPU, None)
    parts = [part for step in islice(data.batches(first_step), num_steps) for part in step]
    return [tensor for part in parts for tensor in flat(part)]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize(("kind", "collate"), [(Noisy, None), (Whole, stack)])
def test_what_workers_draw_depends_on_seed_and_epoch_alone(tiny_task: MakeTask, kind: type[Noisy], collate: Any):
    fields = {"kind": kind, "collate": collate}
    one = noisy(tiny_task, 1, **fields)
    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    expected = drawn(one, 6)  # an epoch and a half
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]  # noqa: NPY002
    torch.manual_seed(2)
    random.seed(2)
    assert same(drawn(noisy(tiny_task, 2, **fields), 6), expected)
    assert same(drawn(one, 3, first_step=3), expected[len(expected) // 2 :])  # as a run that goes on
    assert not same(drawn(one, 6, seed=4), expected)
    epochs = TrainingData(one, 64, 1, 3, CPU, None).batches()
    first, second = (sorted(flat(next(epochs)[0])[0].flatten().tolist()) for _ in range(2))
    assert first != second  # every epoch has noise of its own


def test_batches_drawn_apart_and_fingerprints_are_those_of_the_workers(tiny_task: MakeTask):
    task = noisy(tiny_task, 2)
    data = TrainingData(task, 16, 2, 3, CPU, None)
    parts = next(data.batches())
    assert same(flat(data.first_part()), flat(parts[0]))
    assert same(flat(list(data.first_parts(1))[1]), flat(parts[1]))
    torch.manual_seed(5)
    again = TrainingData(noisy(tiny_task, 1), 16, 2, 3, CPU, None)
    assert TrainingData(task, 16, 2, 3, CPU, None).digest() == again.digest()
    passes = validation_batches(task, 24, CPU, None)
    one, other = ([tensor for batch in passes() for tensor in flat(batch)] for _ in range(2))
    assert same(one, other)
    assert [len(tensor) for tensor in one[::2]] == [24, 24, 16]


def test_workers_draw_ahead_and_the_trials_own_process_does_not(tiny_task: MakeTask):
    task = noisy(tiny_task, 0)
    batches = TrainingData(task, 16, 1, 0, CPU, None).batches()
    before = task.train_set.num_drawn.value
    next(batches)
    assert task.train_set.num_drawn.value - before == 16
    task = noisy(tiny_task, 1)
    batches = TrainingData(task, 16, 1, 0, CPU, None).batches()
    before = task.train_set.num_drawn.value
    next(batches)
    deadline = time.monotonic() + 60
    while task.train_set.num_drawn.value - before < 3 * 16:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_set_that_gives_whole_batches_is_drawn_so_without_workers(tiny_task: MakeTask, make_loop: Any):
    task = noisy(tiny_task, 0, Whole, collate=stack)
    task.model.forward = lambda x: torch.nn.Sequential.forward(task.model, x)  # by its name in the batch
    loop = make_loop(task, batch_size=16)
    before = task.train_set.num_drawn.value
    assert loop.train(5).applied_steps == 5
    assert set(Evaluator(loop).evaluate()[0]) == {"val_accuracy", "val_loss"}
    assert task.train_set.num_drawn.value == before  # none of them one by one


@pytest.mark.parametrize("num_workers", [-1, True, 1.0])
def test_a_number_of_workers_that_is_none_is_refused(tiny_task: MakeTask, num_workers: Any):
    with pytest.raises(ValueError, match="num_workers must be a whole number of at least 0"):
        tiny_task(num_workers=num_workers)


TASK = """
import os, random, time
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset
from trainables import Task

class Slow(Dataset):
    def __init__(self, inputs, labels):
        self.inputs, self.labels = inputs, labels
    def __len__(self):
        return len(self.inputs)
    def __getitem__(self, index):
        time.sleep(0.002)
        return self.inputs[index] + random.gauss(0, 0.1), self.labels[index]

def build(config):
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    labels = (inputs.sum(1) > 0).long()
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.3), nn.Linear(16, 2))
    data = TensorDataset(inputs, labels)
    def loss(outputs, batch):
        time.sleep(config["step_s"] if torch.is_grad_enabled() else 0)
        return nn.functional.cross_entropy(outputs, batch[1])
    return Task(model, Slow(inputs, labels), data, loss=loss, num_workers=config["num_workers"])
"""


@pytest.fixture
def slow(make_spec: Callable[..., TrialSpec], task_file: Callable[..., Any]) -> Callable[..., TrialSpec]:
    source = task_file(TASK)

    def make(num_workers: int = 0, step_s: float = 0.0, **fields: Any) -> TrialSpec:
        config = {"batch_size": 16, "num_workers": num_workers, "step_s": step_s}
        return make_spec(source, **{"config": config, "budget": Budget(max_steps=6, report_every_steps=3)} | fields)

    return make


def test_a_trial_with_workers_goes_on_to_the_same_bit(slow: Callable[..., TrialSpec], tmp_path: Path):
    def run(spec: TrialSpec) -> list[TrialReport]:
        return list(run_trial(spec))

    expected = run(slow(num_workers=2))
    assert expected[-1].status == "completed"
    for num_workers, stop_after in ((1, 1), (2, 1)):
        spec = slow(num_workers, checkpoints=Checkpoints(str(tmp_path / str(num_workers)), 0, "val_loss", "min"))
        reports = run_trial(spec)
        for _ in range(stop_after):
            next(reports)
        reports.close()  # type: ignore[attr-defined]
        random.seed(9)
        found = run(spec)
        assert [report.metrics for report in found] == [report.metrics for report in expected]
        assert [report.data_digest for report in found] == [report.data_digest for report in expected]


def test_a_slow_set_shows_as_waiting_and_workers_hide_it(slow: Callable[..., TrialSpec]):
    """32 ms of every batch are slept away: before steps of a millisecond, or while steps of 64 ms are at work."""
    alone = list(run_trial(slow()))
    assert 0.5 < alone[-1].data_wait_share <= 1
    hidden = list(run_trial(slow(num_workers=1, step_s=0.064)))
    assert 0 <= hidden[-1].interval_data_wait_share < alone[-1].interval_data_wait_share


FAILING = """
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset
from trainables import Task

class Failing(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        if index == 5:
            try:
                {}["planted"]
            except KeyError as error:
                raise ValueError("item 5 is\\nplanted") from error
        return torch.zeros(8), 0

def build(config):
    data = Failing()
    return Task(nn.Linear(8, 2), data, TensorDataset(torch.zeros(4, 8), torch.zeros(4).long()), num_workers=1)
"""


def test_what_a_worker_raises_is_the_reason_and_not_its_traceback(make_spec: Callable[..., TrialSpec], task_file: Any):
    (end,) = run_trial(make_spec(task_file(FAILING), config={"batch_size": 1}, budget=Budget(max_steps=8)))
    assert (end.status, end.status_reason) == ("errored", "ValueError: item 5 is planted (task_under_test.py:15)")


TICKING = """
import time
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset
from trainables import Task

class Items(Dataset):
    def __init__(self, data):
        self.data = data
    def __len__(self):
        return len(self.data)
    def __getitem__(self, index):
        time.pass_by(0.25)
        return self.data[index]

def build(config):
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(inputs, (inputs.sum(1) > 0).long())
    def loss(outputs, batch):
        time.pass_by(time.step_s if torch.is_grad_enabled() else 100.0)
        return nn.functional.cross_entropy(outputs, batch[1])
    return Task(nn.Linear(4, 2), Items(data), data, loss=loss)
"""


def test_the_share_is_waiting_over_training_and_a_resumed_trial_has_it_right(
    make_spec: Callable[..., TrialSpec], task_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now = [0.0]

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "pass_by", pass_by, raising=False)
    monkeypatch.setattr(time, "step_s", 1.0, raising=False)  # of computing; four items of a quarter take as long
    kept = Checkpoints(str(tmp_path / "kept"), 0, "val_loss", "min")
    budget = Budget(max_steps=6, report_every_steps=3)
    spec = make_spec(task_file(TICKING), config={"batch_size": 4}, budget=budget, checkpoints=kept)
    reports = run_trial(spec)
    first = next(reports)
    assert (first.data_wait_share, first.interval_data_wait_share) == (0.5, 0.5)
    reports.close()  # type: ignore[attr-defined]
    monkeypatch.setattr(time, "step_s", 3.0)
    found = list(run_trial(spec))  # saved after two steps of three: the third is trained again, at the new pace
    assert found[0].train_s == pytest.approx(2 * (1 + 1) + (1 + 3))
    assert found[0].interval_data_wait_share == pytest.approx(3 / 8)
    assert found[1].data_wait_share == pytest.approx(6 / 20)
    assert found[1].interval_data_wait_share == pytest.approx(1 / 4)
