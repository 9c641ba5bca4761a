"""Trials from beginning to end: how they end, what they leave behind, and that nothing before them matters."""

import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables import trial
from trainables.figures import divergence
from trainables.ladder import LADDER
from trainables.loading import TaskSource, find_task
from trainables.precision import FP32_OPERATIONS, numerics
from trainables.progress import Progress
from trainables.report import TrialReport
from trainables.spec import Budget, Checkpoints, TimingJob, TrialSpec
from trainables.trial import run_trial

ROOT = Path(__file__).parents[2]
MakeSpec = Callable[..., TrialSpec]


def global_state() -> dict[str, Any]:
    numpy_state = np.random.get_state()  # noqa: NPY002 - the global generator is what is watched
    return {
        "python": random.getstate(),
        "numpy": (numpy_state[1].tolist(), numpy_state[2]),
        "torch": torch.get_rng_state().tolist(),
        "environment": {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
        "directory": os.getcwd(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "fp32": [torch._C._get_fp32_precision_getter(*key) for key in FP32_OPERATIONS],
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "reduction": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        "deterministic": torch.get_deterministic_debug_mode(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
    }


@pytest.fixture
def restored() -> Iterator[None]:
    before = global_state()
    yield
    assert global_state() == before


def last(spec: TrialSpec) -> TrialReport:
    reports = list(run_trial(spec))
    assert [report.is_last for report in reports] == [False] * (len(reports) - 1) + [True]
    assert reports[-1].wall_s > 0
    assert "\n" not in str(reports[-1].status_reason)
    return reports[-1]


def test_a_trial_that_completes_says_everything(make_spec: MakeSpec, restored: None) -> None:
    reports = list(run_trial(make_spec(examples_of="val_accuracy")))
    assert [(r.status, r.epoch, r.step, r.applied_steps, r.skipped_steps) for r in reports] == [
        ("running", 1, 4, 4, 0),
        ("completed", 2, 8, 8, 0),
    ]
    first, end = reports
    assert end.status_reason is None
    assert end.effective_precision == "fp32"
    assert end.effective_share == 1.0
    assert set(end.metrics) == {"val_accuracy", "val_loss"}
    assert first.examples is None
    assert end.examples is not None
    assert end.examples.shape == (64,)
    assert end.examples.mean() == pytest.approx(end.metrics["val_accuracy"])
    for name in ("val_accuracy", "val_loss"):
        seen = [first.metrics[name], end.metrics[name]]
        assert (end.lowest[name], end.highest[name]) == (min(seen), max(seen))
        assert (first.lowest[name], first.highest[name]) == (seen[0], seen[0])
    assert end.train_s > first.train_s > 0
    assert end.wall_s > end.train_s
    assert end.samples_per_s == pytest.approx(8 * 16 / end.train_s)
    assert end.loss_scale is None
    assert end.learning_rate == 1e-3
    assert end.peak_memory_bytes > 0
    assert len(str(end.init_digest)) == len(str(end.data_digest)) == 16
    assert end.init_digest == first.init_digest
    assert end.data_digest != first.data_digest
    assert pickle.loads(pickle.dumps(end)).to_dict().keys() == end.to_dict().keys()


def test_looking_again_at_the_end_changes_nothing_of_a_trial(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = []
    for name in ("without", "with"):
        spec = make_spec(checkpoints=Checkpoints(str(tmp_path / name), 30, "val_accuracy", "max"))
        with monkeypatch.context() as patch:
            if name == "without":
                patch.setattr(trial, "observe_again", lambda _, first: first)
            report = last(spec)
        assert (report.status, report.effective_precision, report.effective_share) == ("completed", "fp32", 1.0)
        weights = torch.load(str(report.checkpoint), weights_only=True)
        found.append((report.train_loss, report.metrics, report.data_digest, report.peak_memory_bytes, weights))
    assert found[0][:-1] == found[1][:-1]
    assert all(torch.equal(found[0][-1][name], weight) for name, weight in found[1][-1].items())


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        (Budget(max_epochs=3), [4, 8, 12]),
        (Budget(max_steps=6), [4, 6]),
        (Budget(max_steps=6, report_every_steps=2), [2, 4, 6]),
        (Budget(max_epochs=1, report_every_steps=3), [3, 4]),
    ],
)
def test_reports_come_as_the_budget_says(make_spec: MakeSpec, budget: Budget, steps: list[int]) -> None:
    reports = list(run_trial(make_spec(budget=budget)))
    assert [r.step for r in reports] == steps
    assert [r.epoch for r in reports] == [step / 4 for step in steps]


@pytest.mark.parametrize(
    ("task", "precision", "fields", "status", "says"),
    [
        ("nan_loss", "fp32", {}, "diverged", "the training loss was not finite, first at step 1 (4 by step 4)"),
        ("nan_val_loss", "fp32", {}, "diverged", "val_loss became nan by step 4"),
        (
            "infinite_gradients",
            "fp16-mixed",
            {"budget": Budget(max_steps=20, report_every_steps=20)},
            "diverged",
            "loss scale 0.0625, 20 steps skipped",
        ),
        ("raises_in_build", "fp32", {}, "errored", "ValueError: planted in build (tiny_tasks.py:"),
        ("raises_in_step_3", "fp32", {}, "errored", "KeyError: 'planted in step 3' (tiny_tasks.py:"),
        ("exits", "fp32", {}, "errored", "SystemExit: usage: train.py [options] (tiny_tasks.py:"),
        ("build", "fp32", {"examples_of": "val_f1"}, "errored", "must be one of val_accuracy, val_loss, got 'val_f1'"),
        ("build", "fp32", {"config": {"batch_size": 0}}, "errored", "batch_size must be a whole number"),
        ("build", "fp32", {"num_gpus": 1}, "errored", "PyTorch sees no GPU here"),
        ("build", "fp31", {}, "errored", "precision: must be one of"),
        ("out_of_memory_in_build", "fp32", {}, "out_of_memory", "allocate"),
        ("out_of_memory_in_forward", "fp32", {}, "out_of_memory", "allocate"),
        ("build", "tf32", {}, "unsupported", "TF32 is a format of NVIDIA GPUs"),
        ("build", "fp8-rowwise", {}, "unsupported", "NVIDIA"),
        ("lies", "fp32", {}, "precision_mismatch", "asked for fp32, but the step's matrix FLOPs ran as 100% bfloat16"),
        ("vandal", "fp32", {"config": {"fails": True}}, "errored", "must return a trainables.Task, got NoneType"),
    ],
)
def test_a_trial_that_goes_wrong_says_how(
    make_spec: MakeSpec, restored: None, task: str, precision: str, fields: dict[str, Any], status: str, says: str
) -> None:
    if torch.cuda.is_available() and "num_gpus" in fields:
        pytest.skip("there is a GPU here")
    report = last(make_spec(task, precision, **fields))
    assert report.status == status
    assert says in str(report.status_reason)


def test_steps_before_an_error_are_kept(make_spec: MakeSpec) -> None:
    reports = list(run_trial(make_spec("raises_in_step_3", budget=Budget(max_steps=4, report_every_steps=1))))
    assert [(r.status, r.step) for r in reports] == [("running", 1), ("running", 2), ("errored", 2)]


def test_a_task_that_cannot_be_imported_is_an_errored_trial(
    make_spec: MakeSpec, task_file: Callable[..., TaskSource]
) -> None:
    report = last(make_spec(task_file("def build(config): pass\nimport no_such_module_at_all")))
    assert report.status == "errored"
    assert "No module named 'no_such_module_at_all'" in str(report.status_reason)


@pytest.mark.parametrize("task", ["build", "vandal", "raises_in_step_3", "out_of_memory_in_forward"])
@pytest.mark.parametrize("num_reports", [0, 1])
def test_a_trial_left_in_the_middle_restores_what_it_found(
    make_spec: MakeSpec, restored: None, task: str, num_reports: int
) -> None:
    reports = run_trial(make_spec(task, "bf16-true", budget=Budget(max_steps=4, report_every_steps=1)))
    for _ in range(num_reports):
        next(reports)
    reports.close()


@pytest.mark.parametrize("task", ["build", "vandal"])
def test_a_trial_restores_what_it_found_when_it_ends(make_spec: MakeSpec, restored: None, task: str) -> None:
    with numerics(LADDER["tf32"]):
        torch.set_default_dtype(torch.bfloat16)
        before = global_state()
        last(make_spec(task))
        assert global_state() == before


@pytest.mark.parametrize(
    ("fields", "val_loss", "diverged"),
    [
        ({}, 1.0, False),
        ({"num_nonfinite": 1, "first_nonfinite": 3}, 1.0, True),
        ({"loss_scale": 65536.0}, 1.0, False),
        ({"loss_scale": 65536.0, "num_nonfinite": 1, "first_nonfinite": 3}, 1.0, True),  # the scale is not to blame
        ({"loss_scale": 32768.0, "train_loss": float("nan")}, 1.0, False),  # the first steps of FP16 find the scale
        ({"loss_scale": 0.5}, 1.0, False),  # steps are applied at that scale
        ({"loss_scale": 0.5, "has_collapsed": True}, 1.0, True),
        ({"loss_scale": 32768.0}, float("nan"), True),
        ({}, float("inf"), True),
    ],
)
def test_divergence(fields: dict[str, Any], val_loss: float, diverged: bool) -> None:
    progress = Progress(**{"train_loss": 1.0, "grad_norm": 1.0, "learning_rate": 1e-3, "applied_steps": 0} | fields)
    reason = divergence(progress, {"val_loss": val_loss, "val_f1": float("nan")}, 4)
    assert (reason is not None) is diverged


NOT_FINITE = """
import torch
from tests.trainables.tiny_tasks import build as plain, cross_entropy

def build(config):
    calls = []
    def loss(outputs, batch):
        value = cross_entropy(outputs, batch)
        if not torch.is_grad_enabled():
            return value
        calls.append(1)  # the first call is the observation's
        bad = len(calls) - 1 in config["at"]
        return value + float("nan") if bad else value
    return plain(config, loss=loss)
"""


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "fp16-mixed", "bf16-true"])
@pytest.mark.parametrize(("at", "says"), [([38], "first at step 38 (1 by step 40)"), ([10, 20, 30, 40], "(4 by")])
def test_a_loss_that_is_not_finite_now_and_then_ends_the_trial(
    make_spec: MakeSpec, task_file: Callable[..., TaskSource], precision: str, at: list[int], says: str
) -> None:
    """Its gradients are finite, so that the scaler of FP16 sees nothing in it."""
    config = {"batch_size": 16, "at": at}
    budget = Budget(max_steps=60, report_every_steps=40)
    report = last(make_spec(task_file(NOT_FINITE), precision, config=config, budget=budget))
    assert (report.status, report.step, report.skipped_steps) == ("diverged", 40, 0)
    assert f"first at step {at[0]}" in str(report.status_reason)
    assert says in str(report.status_reason)


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "fp16-mixed", "bf16-true"])
def test_pairs_start_from_the_same_weights_and_see_the_same_data(make_spec: MakeSpec, precision: str) -> None:
    baseline, report = last(make_spec()), last(make_spec(precision=precision))
    assert report.status == "completed"
    assert (report.init_digest, report.data_digest) == (baseline.init_digest, baseline.data_digest)
    other = last(make_spec(precision=precision, seed=6))
    assert other.init_digest != report.init_digest
    assert other.data_digest != report.data_digest


def test_dropout_does_not_depend_on_how_much_building_drew(make_spec: MakeSpec) -> None:
    ends = [last(make_spec("draws_after_building", config={"batch_size": 16, "draws": n})) for n in (0, 5)]
    assert (ends[0].train_loss, ends[0].metrics) == (ends[1].train_loss, ends[1].metrics)


IN_A_FRESH_PROCESS = """
import json, sys
from trainables.spec import TimingJob
from trainables.trial import run_trial
spec = TimingJob.from_json(sys.stdin.read()).trial
print(json.dumps([[r.metrics, r.train_loss, r.grad_norm, r.init_digest, r.data_digest, r.effective_share, r.status]
                  for r in run_trial(spec)]))
"""


def facts(reports: list[TrialReport]) -> list[Any]:
    """What must not depend on the process; floats survive JSON exactly."""
    found = [
        [r.metrics, r.train_loss, r.grad_norm, r.init_digest, r.data_digest, r.effective_share, r.status]
        for r in reports
    ]
    return json.loads(json.dumps(found))


def in_a_fresh_process(spec: TrialSpec) -> list[Any]:
    job = TimingJob(spec, (spec.precision,)).to_json()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS]
    done = subprocess.run(command, input=job, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("before", "precision"),
    [
        ([("build", "bf16-true")], "fp32"),
        ([("vandal", "fp32")], "bf16-mixed"),
        ([("raises_in_step_3", "fp16-mixed"), ("lies", "fp32"), ("nan_loss", "bf16-true")], "bf16-true"),
    ],
)
def test_a_used_process_gives_what_a_fresh_one_gives(
    make_spec: MakeSpec, before: list[tuple[str, str]], precision: str
) -> None:
    """Bit for bit, with dropout in the model."""
    fresh = in_a_fresh_process(make_spec(precision=precision))
    assert [report[-1] for report in fresh] == ["running", "completed"]
    for task, other in before:
        list(run_trial(make_spec(task, other)))
    assert facts(list(run_trial(make_spec(precision=precision)))) == fresh


IMPORT_TIME = """
import os, torch
from trainables import Task
torch.set_float32_matmul_precision("medium")
torch.set_default_dtype(torch.float64)
torch.manual_seed(3)
os.environ["SET_AT_IMPORT"] = "1"
from trainables.tasks import digits

def build(config):
    assert os.environ["SET_AT_IMPORT"] == "1"
    return digits.build({"width": 2})
"""


def test_what_a_module_does_when_imported_reaches_the_first_trial_as_it_reaches_the_second(
    make_spec: MakeSpec, task_file: Callable[..., TaskSource]
) -> None:
    spec = make_spec(task_file(IMPORT_TIME), budget=Budget(max_steps=3))
    with numerics(LADDER["fp32"]):
        try:
            first, second = (facts(list(run_trial(spec))) for _ in range(2))
        finally:
            os.environ.pop("SET_AT_IMPORT", None)
    assert first == second
    assert first[-1][-1] == "completed"


def test_specs_survive_the_trip_to_a_worker(make_spec: MakeSpec) -> None:
    spec = make_spec(budget=Budget(max_steps=3, report_every_steps=1), examples_of="val_accuracy", num_cpus=0.5)
    assert TrialSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    job = TimingJob(spec, ("fp32", "bf16-mixed"), windows=9)
    assert TimingJob.from_json(job.to_json()) == job
    assert "\n" not in job.to_json()
    assert spec.num_threads == 1


def test_find_task_agrees_with_the_tiny_tasks(make_spec: MakeSpec) -> None:
    assert make_spec().task == find_task(f"{Path(__file__).parent}/tiny_tasks.py:build")


def test_fp16_parameters_are_neither_scaled_nor_rescued(make_spec: MakeSpec) -> None:
    """Beyond FP16's largest number, 65,504, they are lost; the same training goes on in FP32."""
    config = {"batch_size": 16, "learning_rate": 3e4}
    lost, kept = (last(make_spec("build", precision, config=config)) for precision in ("fp16-true", "fp32"))
    assert (lost.status, kept.status) == ("diverged", "completed")
    assert "the training loss was not finite, first at step" in str(lost.status_reason)
    assert (lost.effective_precision, lost.effective_share, lost.loss_scale) == ("fp16-true", 1.0, None)
