"""A search in one call: what is refused before Ray starts, and a script as a user runs it, from start to export."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from analysis import load
from sweeps import Sweep, SweepError, choice, tune_model
from sweeps.engine import stages
from sweeps.engine.export import write_export
from sweeps.engine.flags import build_parser, parse
from trainables import load_exported
from trainables.loading import TaskError

X, Y = torch.zeros(10, 4), torch.zeros(10, dtype=torch.int64)


def make_model(config: dict[str, Any]) -> nn.Module:
    return nn.Linear(4, config.get("hidden", 2))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"train": (X, Y[:5])}, SweepError, "train: must hold as many labels as inputs, .*got 10 and 5"),
        ({"val": (X[:0], Y[:0])}, SweepError, "val: must hold as many labels as inputs, and at least one, got 0 and 0"),
        (
            {"train": X},
            SweepError,
            r"train: must be a pair of inputs and labels, got a Tensor; pass \(x_train, y_train\)",
        ),
        ({"train": ("a", Y)}, SweepError, "train: must hold tensors, got a str .*convert it"),
        ({"val": (torch.tensor(1.0), Y)}, SweepError, "val: must hold tensors with an example in each row"),
        ({"make_model": nn.Linear(4, 2).weight}, SweepError, "make_model: must be a function from a configuration"),
        ({"make_model": lambda config: 3}, SweepError, "make_model: must return a torch.nn.Module, got 'int'"),
        ({"make_model": lambda: 3}, TaskError, "make_model: must make a model of {'hidden': 8}, got TypeError"),
        ({"make_model": lambda c: c["depth"]}, TaskError, "make_model: .*got KeyError: 'depth' .*; correct it"),
        ({"train": (X * float("nan"), Y)}, None, ""),
        ({"loss": (x for x in ()).send}, TaskError, "task: must refer only to what can be pickled, got .* loss "),
        ({"n_trials": 3}, SweepError, "n_trials: must be a field of Sweep, got 3; did you mean 'num_trials'"),
        ({"task": "a:b"}, SweepError, "task: must be a field of Sweep, got 'a:b'"),
        ({"space": {"learning_rate": -1.0}}, SweepError, r"space\['learning_rate'\]: must be a finite number"),
    ],
)
def test_bad_input_is_one_line_before_ray_starts(
    changed: dict[str, Any],
    error: type[Exception] | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def started(sweep: Sweep) -> None:
        raise InterruptedError(sweep.name)

    monkeypatch.setattr(stages, "connected", started)
    given = {"make_model": make_model, "train": (X, Y), "val": (X, Y), "space": {"hidden": choice([8])}}
    state = torch.random.get_rng_state()
    with pytest.raises(error or InterruptedError, match=message or "tune_model") as caught:
        tune_model(**given | {"storage": str(tmp_path / "runs")} | changed)
    assert "\n" not in str(caught.value)
    assert error is None or not (tmp_path / "runs").exists()
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            lambda: 1,
            r"task: must be a function of a configuration alone \(too many.*got '.*<lambda>'; take one argument",
        ),
        (lambda a, b: 1, "task: must be a function of a configuration alone .*'b'"),
        (3, "task: must be a string that is not empty, got 3; write module:function"),
        ("build", "task: must name a function of a module or file, got 'build'"),
    ],
)
def test_what_is_no_builder_is_refused(task: Any, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        Sweep(name="s", task=task, space={})


def test_a_function_is_named_in_help_and_the_declaration_and_replaced_by_a_flag() -> None:
    sweep = Sweep(name="s", task=make_model, space={})
    name = f"{make_model.__module__}.make_model"
    assert sweep.to_json()["task"] == name
    assert f"The sweep 's' over {name}" in build_parser(sweep).format_help()
    assert f"(default: {name})" in " ".join(build_parser(sweep).format_help().split())
    assert parse(sweep, ["--seed", "1"]).task is make_model
    assert parse(sweep, ["--task", "a:b"]).task == "a:b"


SCRIPT = """
import sys
import torch
from torch import nn
from beside import head
from sweeps import Confirm, choice, tune_model

class Net(nn.Module):
    def __init__(self, hidden, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), head(hidden, classes))
    def forward(self, x):
        return self.body(x)

def main(stage, shift):
    x = torch.randn(96, 8, generator=torch.Generator().manual_seed(0)) + float(shift)
    y, classes = (x.sum(1) > 0).long(), 2
    return tune_model(
        lambda config: Net(config["hidden"], classes),
        (x[:64], y[:64]),
        (x[64:].numpy(), y[64:].numpy()),
        space={"hidden": choice([8, 16]), "batch_size": 16},
        metrics={"half": lambda outputs, batch: (outputs.argmax(1) == batch[1]) / classes},
        mode="max", precisions=("fp32", "bf16-mixed"), num_trials=2, max_epochs=1, confirm=Confirm(num_seeds=1),
        cpus_per_trial=1.5, stage=stage, storage=sys.argv[1], run_name="cell", resume=stage == "confirm",
    )

print(len(main(*sys.argv[2:]).trials), "rows")
"""


@pytest.mark.ray
def test_a_script_s_closure_is_searched_resumed_confirmed_and_exported(
    ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, runs = tmp_path / "project", tmp_path / "runs"
    folder.mkdir()
    (folder / "beside.py").write_text("from torch.nn import Linear\n\ndef head(a, b):\n    return Linear(a, b)\n")
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(folder / "script.py"), str(runs), "search", "0"]
    searched = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert searched.returncode == 0, searched.stderr
    pickled = (runs / "cell" / "task.pkl").read_bytes()

    def in_a_cell(*words: str) -> None:
        """Another process than the script's, where the same code stands elsewhere."""
        monkeypatch.setattr(sys, "argv", ["cell", str(runs), *words])
        exec(compile("\n\n" + SCRIPT, "cell-7", "exec"), {"__name__": "__main__"})

    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(SweepError, match="task_digest: must be as in the run that goes on"):
        in_a_cell("confirm", "1")  # other data
    in_a_cell("confirm", "0")
    assert (runs / "cell" / "task.pkl").read_bytes() == pickled
    results = load(runs / "cell")
    assert results.sweeps[0]["task"] == "__main__.main.<locals>.<lambda>"
    assert set(results.trials["status"]) == {"completed"}
    assert set(results.timings["status"]) == {"completed"}
    assert dict(results.trials.groupby("stage").size()) == {"probe": 2, "search": 2, "confirm": 2}
    assert results.trials["val_half"].max() <= 0.5
    assert len(results.verdicts) == 2
    best = write_export(str(runs / "cell"), tmp_path / "exported")
    assert load_exported(tmp_path / "exported").body[0].out_features == best.config["hidden"]
