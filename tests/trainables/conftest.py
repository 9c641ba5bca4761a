"""Tiny tasks, and loops and specs made of them; one thread, since the machine is shared.

What tests of this folder share becomes importable: in pytest's importlib mode the folder is not on the path.
"""

import faulthandler
import functools
import multiprocessing
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from trainables.hyperparameters import Hyperparameters
from trainables.ladder import LADDER
from trainables.loading import TaskSource, find_task
from trainables.loop import Loop
from trainables.meeting import Meeting
from trainables.precision import numerics
from trainables.spec import Budget, TrialSpec
from trainables.task import Task
from trainables.tasks import digits
from trainables.team import open_store

sys.path.insert(0, str(Path(__file__).parent))

from trackers import outbox

__all__ = ["outbox"]

CPU = torch.device("cpu")
TINY_TASKS = Path(__file__).parent / "tiny_tasks.py"


PROCESSES = multiprocessing.get_context("forkserver")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def tiny_task() -> Callable[..., Task]:
    """A two-layer MLP on vectors (8,) and two classes; ``dtype`` of everything, other fields as ``Task`` takes them."""

    def make(dtype: torch.dtype = torch.float32, num_items: int = 64, **fields: Any) -> Task:
        torch.manual_seed(7)
        inputs = torch.randn(num_items, 8, dtype=dtype)
        data = TensorDataset(inputs, (inputs.sum(1) > 0).long())
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)).to(dtype)
        return Task(**{"model": model, "train_set": data, "val_set": data, **fields})

    return make


@pytest.fixture
def digits_task() -> Callable[[], Task]:
    def make() -> Task:
        torch.manual_seed(3)
        return digits.build({"width": 4})

    return make


@pytest.fixture
def make_loop() -> Iterator[Callable[..., Loop]]:
    """A loop over a task, its precision's numerics in force until the test ends."""
    with ExitStack() as stack:

        def make(
            task: Task, precision: str = "fp32", seed: int = 0, num_steps: int | None = None, **hyper: Any
        ) -> Loop:
            stack.enter_context(numerics(LADDER[precision]))
            return Loop(task, Hyperparameters(**hyper), LADDER[precision], seed, CPU, num_steps)

        yield make


@pytest.fixture
def task_file(tmp_path: Path) -> Callable[..., TaskSource]:
    """Writes a task's file and finds its function ``build``."""

    def write(text: str, name: str = "task_under_test.py") -> TaskSource:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return find_task(f"{path}:build")

    return write


@pytest.fixture(scope="module")
def workers() -> Iterator[ProcessPoolExecutor]:
    """Two processes that call functions of ``teamwork.py``; where one dies, its call fails and its stack is shown."""
    PROCESSES.set_forkserver_preload(["torch._dynamo", "trainables.trial"])
    pool = ProcessPoolExecutor(2, PROCESSES, faulthandler.enable)
    for call in [pool.submit(os.getpid) for _ in range(2)]:  # the pool watches those that are there at the next call
        call.result()
    yield pool
    for process in multiprocessing.active_children():  # one of them may hang
        process.kill()
    pool.shutdown()


@pytest.fixture
def together(workers: ProcessPoolExecutor) -> Callable[..., list[Any]]:
    """Calls a function in two workers of a team at once; what each gives, by rank."""

    def call(function: Callable[..., Any], *args: Any) -> list[Any]:
        store = open_store("127.0.0.1")
        meetings = [Meeting(rank, 2, "127.0.0.1", store.port) for rank in range(2)]
        calls = [workers.submit(function, each, *args) for each in meetings]
        return [call.result(timeout=120) for call in calls]

    return call


@functools.cache
def _tiny(name: str) -> TaskSource:
    return find_task(f"{TINY_TASKS}:{name}")


@pytest.fixture
def make_spec() -> Callable[..., TrialSpec]:
    """A trial of a function in ``tiny_tasks.py``, or of another source."""

    def make(task: str | TaskSource = "build", precision: str = "fp32", **fields: Any) -> TrialSpec:
        source = task if isinstance(task, TaskSource) else _tiny(task)
        plain: dict[str, Any] = {"config": {"batch_size": 16}, "seed": 5, "budget": Budget(max_epochs=2)}
        return TrialSpec("t", source, precision=precision, **plain | fields)

    return make
