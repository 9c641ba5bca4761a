"""Builders without a file of their own: pickled, loaded, and refused where they cannot be."""

import functools
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from trainables import Task, load_exported, loading
from trainables.in_memory import InMemory, own_tensors
from trainables.loading import TaskError, TaskSource, build_task, load_function
from trainables.pickled import pickle_task, write_task

DATA = TensorDataset(torch.arange(8.0).reshape(4, 2), torch.tensor([0, 1, 0, 1]))


def closure(classes: int) -> Any:
    class Net(nn.Linear):
        pass

    return lambda config: Task(Net(2, classes + config["more"]), DATA, DATA)


def kept(build: Any, folder: Path) -> TaskSource:
    source, content = pickle_task(build)
    write_task(content, folder)
    return TaskSource(source.name, "", pickled=str(folder / "task.pkl"), digest=source.digest)


def test_a_closure_builds_from_its_file_which_is_read_once(tmp_path: Path) -> None:
    source = kept(closure(3), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["task.pkl"]
    assert build_task(source, {"more": 2}).model.out_features == 5
    function = load_function(source)
    (tmp_path / "task.pkl").unlink()
    assert load_function(source) is function
    assert TaskSource(**source.__dict__) == source


def test_trials_do_not_share_a_model_that_the_function_holds(tmp_path: Path) -> None:
    backbone = nn.Linear(2, 2)
    source = kept(lambda config: Task(nn.Sequential(backbone, nn.Linear(2, 2)), DATA, DATA), tmp_path)
    first = build_task(source, {}).model
    before = first[0].weight.detach().clone()
    with torch.no_grad():
        first[0].weight.add_(1.0)
    first.to(torch.bfloat16)
    again = build_task(source, {}).model
    assert torch.equal(again[0].weight, before)
    assert again[0].weight.dtype is torch.float32


def test_a_file_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    source = TaskSource("__main__.build", "", pickled=str(tmp_path / "none.pkl"), digest="0")
    with pytest.raises(
        TaskError, match=r"^task: must be loadable from .*none.pkl, got FileNotFoundError.* for __main__.build; keep"
    ):
        load_function(source)
    (tmp_path / "none.pkl").write_bytes(b"\x80\x05cno_such_module\nbuild\n.")
    with pytest.raises(TaskError, match="No module named 'no_such_module'"):
        load_function(source)


class Holder:
    def __init__(self) -> None:
        self.guard = threading.Lock()

    def build(self, config: Any) -> Any:
        return self.guard


def holding(value: Any) -> Any:
    return lambda config: value


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (holding(threading.Lock()), "the lock value"),
        (holding({"a": 1, "deep": {"inner": threading.Lock()}}), r"the lock \['inner'\] of \['deep'\] of value"),
        (holding(Holder()), "the lock guard of value"),
        (Holder().build, "the lock guard of self"),
        (functools.partial(lambda held, config: held, threading.Lock()), "the lock argument 0"),
        (InMemory(holding(threading.Lock()), (), ()), "the lock value of make_model"),
        (InMemory(nn.Linear, (), (), metrics={"mine": holding(x for x in ())}), r"the generator value of \['mine'\]"),
    ],
)
def test_what_cannot_be_pickled_is_named(build: Any, named: str) -> None:
    with pytest.raises(
        TaskError, match=f"^task: must refer only to what can be pickled, got {named} .*TypeError: .*inside"
    ):
        pickle_task(build)


def test_an_exported_function_is_loaded_with_its_weights(tmp_path: Path) -> None:
    model = build_task(kept(closure(2), tmp_path), {"more": 1}).model
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    exported = {"task": "somewhere.<lambda>", "config": {"more": 1}, "precision": "fp32", "seed": 0}
    (tmp_path / "export.json").write_text(json.dumps(exported))
    loading._unpickled.cache_clear()
    torch.testing.assert_close(load_exported(tmp_path).state_dict(), model.state_dict())


def test_tensors_in_memory_become_the_task_s_data_sets(tmp_path: Path) -> None:
    def loss(outputs: Any, batch: Any) -> Any:
        return outputs.sum()

    whole = torch.arange(40.0).reshape(20, 2).requires_grad_()
    inputs, labels = own_tensors("train", (whole[:4], torch.tensor([0, 1, 0, 1]).numpy()))
    assert inputs.untyped_storage().nbytes() == 32  # not the 160 of the tensor that it was a part of
    assert not inputs.requires_grad
    assert own_tensors("val", [whole.double(), whole.detach().double().numpy()])[0].dtype == torch.float32
    assert own_tensors("val", (torch.tensor([float("nan")]), [1]))[0].isnan().all()
    build = InMemory(lambda config: nn.Linear(2, config["k"]), (inputs, labels), (inputs, labels), loss, {"mine": loss})
    task = build_task(kept(build, tmp_path), {"k": 3})
    assert (task.model.out_features, len(task.train_set), task.train_set[3][1]) == (3, 4, 1)
    assert task.loss(torch.ones(2), None) == 2
    assert set(task.metrics) == {"mine"}
