"""Models and data from wherever they come."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from trainables.candidates import load_candidate, load_initial
from trainables.examples import Examples, load_examples
from trainables.exported import load_exported, load_exported_task
from trainables.loading import TaskError
from trainables.task import Task

FUNCTIONS = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from torch.utils.data import TensorDataset
from trainables import Task

DATA = TensorDataset(torch.randn(12, 4), torch.arange(12) % 2)
def plain(): return nn.Linear(4, 2)
def optional(width=3): return nn.Linear(4, width)
def configured(config): return nn.Linear(4, config.get("width", 5))
def task(config): return Task(nn.Linear(4, config.get("width", 2)), DATA, DATA)
class Model(nn.Linear):
    def __init__(self): super().__init__(4, 2)
def data(): return DATA
def number(): return 3
def empty(): return []
def fails(): raise ValueError("planted")
def two(a, b): pass
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    return "functions.py"


@pytest.fixture
def exported(file: str) -> Path:
    """As ``ampsweep export`` writes it: a model of width 3 whose weights were trained to be ones."""
    folder = Path("exported")
    folder.mkdir()
    config = {"width": 3}
    about = {"task": f"{file}:task", "config": config, "precision": "bf16-true", "seed": 3}
    (folder / "export.json").write_text(json.dumps(about))
    (folder / "task.py").write_text(FUNCTIONS)
    weights = {"weight": torch.ones(3, 4, dtype=torch.bfloat16), "bias": torch.ones(3, dtype=torch.bfloat16)}
    torch.save(weights, folder / "weights.pt")
    return folder


@pytest.mark.parametrize(
    ("function", "width"), [("plain", 2), ("optional", 3), ("configured", 5), ("task", 2), ("Model", 2)]
)
def test_a_function_gives_a_model(file: str, function: str, width: int) -> None:
    found = load_candidate("MODEL", f"{file}:{function}", seed=1)
    assert found.model.out_features == width
    assert isinstance(found.task, Task) is (function == "task")
    again = load_candidate("BASELINE", f"functions:{function}", seed=1)
    assert torch.equal(found.model.weight, again.model.weight)
    other = load_candidate("BASELINE", f"{file}:{function}", seed=2)
    assert not torch.equal(found.model.weight, other.model.weight)


def test_an_exported_folder_gives_its_model_and_task_and_the_model_before_training(exported: Path) -> None:
    initial = load_initial("BASELINE", str(exported))  # first: importing the task draws numbers, which must not count
    torch.manual_seed(3)
    expected = nn.Linear(4, 3).to(torch.bfloat16)
    assert torch.equal(initial.model.weight, expected.weight)
    found = load_candidate("MODEL", str(exported), seed=9)
    assert torch.equal(found.model.weight, torch.ones(3, 4))
    assert found.task is not None
    model = load_exported(exported)
    assert not model.training
    assert load_exported_task(exported).model.training
    assert torch.equal(model.weight, found.model.weight)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("functions.py:number", "MODEL: functions.py:number must return a torch.nn.Module or a Task, got int; correct"),
        ("functions.py:fails", r"MODEL: .* must load without an error, got ValueError: planted \(functions.py:"),
        ("functions.py:two", "MODEL: .*two needs the arguments a, b"),
        ("functions.py:none", "MODEL: .*none is not defined"),
        ("none.py:model", "MODEL: .*no file .*got 'none.py:model'"),
        ("none", "MODEL: must be a model's folder or function, got 'none'; give a folder that ampsweep export wrote"),
        ("functions.py", "MODEL: must be a model's folder or function, got 'functions.py'"),
        (".", r"MODEL: must hold export.json or config.json, got '\.'; give"),
    ],
)
def test_what_is_no_model_is_told_in_one_line(file: str, place: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_candidate("MODEL", place, seed=0)


@pytest.mark.parametrize(
    ("name", "content"), [("weights.pt", b"nothing"), ("export.json", b"{}"), ("weights.pt", None)]
)
def test_a_damaged_export_is_told_in_one_line(exported: Path, name: str, content: bytes | None) -> None:
    (exported / name).unlink()
    if content is not None:
        (exported / name).write_bytes(content)
    with pytest.raises(TaskError, match=r"^BASELINE: "):
        load_candidate("BASELINE", str(exported), seed=0)


def test_initial_needs_an_exported_model(file: str) -> None:
    with pytest.raises(TaskError, match="BASELINE: initial must stand beside a MODEL that ampsweep export wrote"):
        load_initial("BASELINE", f"{file}:task")


X, Y = np.random.default_rng(0).normal(size=(5, 4)), np.arange(5) % 2


def saved(name: str, content: Any) -> str:
    if name.endswith(".npz"):
        np.savez(name, **content)
    else:
        torch.save(content, name)
    return name


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npz", {"x": X, "y": Y}),
        ("a.npz", {"inputs": X, "targets": Y}),
        ("a.pt", {"x": torch.tensor(X), "labels": torch.tensor(Y)}),
        ("a.pth", (torch.tensor(X), torch.tensor(Y))),
    ],
)
def test_a_file_of_inputs_and_labels(file: str, name: str, content: Any) -> None:
    examples = load_examples(saved(name, content), None, "model", 0)
    inputs, labels = next(iter(examples.batches(3)))
    assert inputs.dtype is torch.float32  # as models are
    assert inputs.numpy() == pytest.approx(X[:3])
    assert labels.tolist() == [0, 1, 0]


def test_a_file_of_what_the_forward_takes(file: str) -> None:
    ids = np.arange(10).reshape(5, 2)
    examples = load_examples(saved("a.npz", {"input_ids": ids, "labels": ids, "extra": Y}), None, "model", 0)
    batch = next(iter(examples.batches(5)))
    assert sorted(batch) == ["extra", "input_ids", "labels"]
    assert batch["input_ids"].tolist() == ids.tolist()


def test_data_of_functions_and_of_the_models_task(file: str) -> None:
    task = load_candidate("MODEL", f"{file}:task", 0).task
    assert task is not None
    own = load_examples(None, task, "mine", 0)
    assert (own.place, own.num, own.task) == ("validation set of mine", 12, task)
    given = load_examples(f"{file}:data", task, "mine", 0)
    assert (given.num, given.task) == (12, task)  # its loss and metrics hold
    other = load_examples(f"{file}:task", None, "mine", 0)
    assert other.task is not None


def test_a_sample_is_drawn_by_the_seed_without_replacement() -> None:
    examples = Examples("rows", TensorDataset(torch.arange(100)))
    one, same, other = (examples.sample(20, seed).data.tensors[0].tolist() for seed in (1, 1, 2))
    assert one == same == sorted(set(one))
    assert one != other
    listed = Examples("rows", [torch.tensor(row) for row in range(100)])  # type: ignore[arg-type]
    assert torch.cat(list(listed.sample(20, 1).batches(7))).tolist() == one
    assert examples.sample(100, 1) is examples


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        (None, None, "--data: must be given where MODEL comes without a task, got nothing"),
        ("none.pt", None, "--data: must be a function or an existing file, got 'none.pt'"),
        ("none.csv", None, "--data: must be a function or a file, got 'none.csv'"),
        ("functions.py:number", None, "--data: .* must return a map-style data set .* or a Task, got int"),
        ("functions.py:empty", None, "--data: .* must return at least one example, got none"),
        ("a.npz", {"x": X, "y": Y[:4]}, "a row of every tensor for each example, got x: 5, y: 4"),
        ("a.npz", {"x": X[:0], "y": Y[:0]}, "a row of every tensor for each example, got x: 0, y: 0"),
        ("a.npz", {"x": np.array(["a", object()], dtype=object)}, "--data: a.npz must load without an error"),
        ("a.pt", [1, 2, 3], "--data: a.pt must hold tensors by name, got list"),
        ("a.pt", Path, "--data: a.pt must load without an error"),
    ],
)
def test_what_is_no_data_is_told_in_one_line(file: str, place: str | None, content: Any, message: str) -> None:
    if content is not None:
        saved(str(place), content)
    with pytest.raises(TaskError, match=message):
        load_examples(place, None, "model", 0)
