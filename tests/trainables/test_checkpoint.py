"""A trial that was stopped and goes on is, bit for bit, the one that never stopped."""

import dataclasses
import errno
import itertools
import os
import random
import resource
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables import checkpoint
from trainables.checkpoint import Saver
from trainables.report import TrialReport
from trainables.spec import STATE_FILE, WEIGHTS_FILE, Budget, Checkpoints, TrialSpec
from trainables.storage import Url
from trainables.trial import Trial, run_trial

CPU = torch.device("cpu")
MakeSpec = Callable[..., TrialSpec]

TASK = """
import os, random
import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset
from trainables import Task

class Killed(BaseException):
    pass

class Noisy(torch.utils.data.Dataset):
    # items drawn from all three generators, as augmentation does
    def __init__(self, inputs, labels):
        self.inputs, self.labels = inputs, labels
    def __len__(self):
        return len(self.inputs)
    def __getitem__(self, i):
        noise = random.gauss(0, 0.1) + np.random.normal() * 0.1 + torch.randn(8) * 0.1
        return (self.inputs[i] + noise).float(), self.labels[i]

def build(config):
    inputs = torch.randn(88, 8, generator=torch.Generator().manual_seed(1))
    labels = (inputs.sum(1) > 0).long()
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))
    calls = []
    def loss(outputs, batch):
        calls.extend([1] if torch.is_grad_enabled() else [])
        if len(calls) == int(os.environ.get("KILL_AT", "-1")):
            raise Killed
        return nn.functional.cross_entropy(outputs.float(), batch[1])
    return Task(model, Noisy(inputs, labels), TensorDataset(inputs, labels), loss=loss)
"""

HYPER: dict[str, Any] = {
    "batch_size": 16,
    "accumulate_steps": 2,
    "warmup_frac": 0.2,
    "lr_schedule": "cosine",
    "learning_rate": 0.01,
    "max_grad_norm": 1.0,
}
TIMES = (
    "train_s",
    "wall_s",
    "step_ms",
    "samples_per_s",
    "steps_per_s",
    "applied_steps_per_s",
    "interval_samples_per_s",
    "interval_steps_per_s",
    "interval_applied_steps_per_s",
    "data_wait_share",
    "interval_data_wait_share",
)


def measured(reports: list[TrialReport]) -> list[dict[str, Any]]:
    rows = [{k: v for k, v in report.to_dict().items() if k not in TIMES} for report in reports]
    return [row | {"checkpoint": None, "examples": None} for row in rows]


@pytest.fixture
def resumable(make_spec: MakeSpec, task_file: Callable[..., Any], tmp_path: Path) -> MakeSpec:
    source = task_file(TASK)

    def make(where: str, precision: str = "fp32", every_s: float = 0, **fields: Any) -> TrialSpec:
        kept = Checkpoints(str(tmp_path / where), every_s, "val_loss", "min")
        plain = {"config": HYPER, "budget": Budget(max_epochs=5), "checkpoints": kept, "examples_of": "val_accuracy"}
        return make_spec(source, precision, **plain | fields)

    return make


def weights(spec: TrialSpec) -> dict[str, torch.Tensor]:
    return torch.load(Path(spec.checkpoints.folder) / "t" / WEIGHTS_FILE, weights_only=True)


def run_until_killed(spec: TrialSpec, call: int, monkeypatch: pytest.MonkeyPatch) -> list[TrialReport]:
    seen: list[TrialReport] = []
    monkeypatch.setenv("KILL_AT", str(call))
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - its class is known to the task's file alone
        seen.extend(run_trial(spec))
    assert type(caught.value).__name__ == "Killed"
    monkeypatch.delenv("KILL_AT")
    return seen


def disturb() -> None:
    """A process that goes on with a trial has drawn what it has drawn."""
    random.seed(99)
    np.random.seed(98)  # noqa: NPY002 - the global generator is what is disturbed
    torch.manual_seed(97)


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "fp16-mixed"])
@pytest.mark.parametrize("budget", [Budget(max_epochs=5), Budget(max_steps=25, report_every_steps=4)])
def test_a_trial_killed_at_any_time_goes_on_as_if_it_had_not_been(
    resumable: MakeSpec, monkeypatch: pytest.MonkeyPatch, precision: str, budget: Budget
):
    undisturbed = resumable("undisturbed", precision, budget=budget)
    expected = list(run_trial(undisturbed))
    assert expected[-1].status == "completed"
    assert not (Path(undisturbed.checkpoints.folder) / "t" / STATE_FILE).exists()
    # 88 examples are 5 steps of two parts an epoch; call 1 is the observation's. Beginning, end and middle of epochs.
    for call in (3, 12, 32, 33):
        killed = resumable(f"killed-{call}", precision, budget=budget)
        run_until_killed(killed, call, monkeypatch)
        disturb()
        found = list(run_trial(killed))
        assert measured(found) == measured(expected), call
        np.testing.assert_array_equal(found[-1].examples, expected[-1].examples)
        kept = weights(undisturbed)
        assert all(torch.equal(kept[name], tensor) for name, tensor in weights(killed).items())


def test_nothing_that_was_trained_and_saved_is_trained_again(resumable: MakeSpec, monkeypatch: pytest.MonkeyPatch):
    spec = resumable("counted")
    run_until_killed(spec, 32, monkeypatch)
    state = checkpoint.read(Path(spec.checkpoints.folder) / "t" / STATE_FILE)
    assert state is not None
    # 31 calls: one observation and 15 steps of two parts; killed in the first step of epoch 4.
    assert (state["loop"]["step"], len(state["reports"])) == (15, 3)
    monkeypatch.setenv("KILL_AT", "23")  # 10 steps are left, and two observations: no more calls than 22
    assert list(run_trial(spec))[-1].status == "completed"


def test_a_trial_stopped_after_epoch_3_shows_its_reports_again_and_goes_on(resumable: MakeSpec):
    expected = list(run_trial(resumable("undisturbed")))
    spec = resumable("stopped")
    reports = run_trial(spec)
    before = [next(reports) for _ in range(3)]
    reports.close()  # type: ignore[attr-defined]
    disturb()
    found = list(run_trial(spec))
    assert measured(found) == measured(expected)
    # What had been saved comes again unchanged, times included; epoch 3's last step was not.
    assert [report.to_dict() for report in found[:2]] == [report.to_dict() for report in before[:2]]
    assert all(a.wall_s < b.wall_s for a, b in itertools.pairwise(found))


def test_a_state_goes_on_under_another_name_and_learning_rate(resumable: MakeSpec):
    donor = Trial(resumable("donor"))
    reports = donor.reports()
    for _ in range(2):
        next(reports)
    state = donor.state_dict()
    torch.save(state, Path(resumable("x").checkpoints.folder).parent / "state.pt")
    state = torch.load(Path(resumable("x").checkpoints.folder).parent / "state.pt", weights_only=True)
    reports.close()  # type: ignore[attr-defined]
    spec = dataclasses.replace(
        resumable("copy"), trial_id="copy", config={**HYPER, "lr_schedule": "constant", "learning_rate": 0.5}
    )
    copy = Trial(spec)
    copy.take_up(state)
    found = next(copy.reports())
    assert (found.trial_id, found.step, found.epoch) == ("copy", 15, 3.0)
    assert found.learning_rate == 0.5


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_or_foreign_state_is_not_taken_up(resumable: MakeSpec, damage: str):
    expected = list(run_trial(resumable("undisturbed")))
    spec = resumable("damaged")
    file = Path(spec.checkpoints.folder) / "t" / STATE_FILE
    reports = run_trial(spec)
    for _ in range(2):
        next(reports)
    reports.close()  # type: ignore[attr-defined]
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        spec = dataclasses.replace(spec, seed=6)
        expected = list(run_trial(dataclasses.replace(spec, checkpoints=None)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert measured(list(run_trial(spec))) == measured(expected)


def test_only_weights_that_beat_the_best_so_far_are_kept(resumable: MakeSpec):
    loss = list(run_trial(resumable("first")))[-1].metrics["val_loss"]
    for to_beat, kept in ((None, True), (loss + 1e-6, True), (loss, False), (loss - 1e-6, False)):
        spec = resumable(f"kept-{to_beat}", to_beat=to_beat, every_s=1000)
        end = list(run_trial(spec))[-1]
        file = Path(spec.checkpoints.folder) / "t" / WEIGHTS_FILE
        assert (end.checkpoint, file.exists()) == ((str(file), True) if kept else (None, False))
        assert not file.with_name(STATE_FILE).exists()


def test_a_storage_that_fails_costs_the_checkpoint_and_not_the_trial(resumable: MakeSpec, tmp_path: Path):
    spec = resumable("file/below")
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(UserWarning, match="could not be written"):
        end = list(run_trial(spec))[-1]
    assert (end.status, end.checkpoint) == ("completed", None)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "new" / "state.pt"
    checkpoint.write(path, {"tensor": torch.arange(4)})
    with pytest.raises(Exception, match="planted"):
        checkpoint.write(path, {"bad": Unpicklable()})
    found = checkpoint.read(path)
    assert found is not None
    assert torch.equal(found["tensor"], torch.arange(4))
    assert os.listdir(path.parent) == ["state.pt"]


def test_a_file_system_that_syncs_no_folders_keeps_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sync = os.fsync

    def of_files_alone(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_alone)
    assert checkpoint.write_weights(tmp_path / "weights.pt", {"tensor": torch.arange(4)})


def test_what_killed_processes_left_goes_with_the_state(tmp_path: Path):
    folder = tmp_path / "t"
    checkpoint.write(folder / STATE_FILE, {"step": 1})
    for name in (f"{STATE_FILE}.123", f"{WEIGHTS_FILE}.45"):
        (folder / name).write_bytes(b"half")
    checkpoint.remove(folder / STATE_FILE)
    assert not folder.exists()


@pytest.mark.parametrize("is_url", [False, True])
def test_a_disk_that_fills_up_is_the_storage_s_failure(tmp_path: Path, is_url: bool):
    path = Url(f"file://{tmp_path}/t/state.pt") if is_url else tmp_path / "t" / "state.pt"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.write(path, {"tensor": torch.zeros(1 << 14)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in (tmp_path / "t").glob("*")] == []


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ValueError("planted")


def test_generators_go_on_where_they_were(tmp_path: Path):
    disturb()
    random.gauss(0, 1)  # leaves its second value for the next call
    checkpoint.write(tmp_path / "rng.pt", checkpoint.rng_state(CPU))

    def draw() -> tuple[Any, ...]:
        return random.gauss(0, 1), random.random(), np.random.normal(), torch.rand(3).tolist()  # noqa: NPY002

    expected = draw()
    draw()
    state = checkpoint.read(tmp_path / "rng.pt")
    assert state is not None
    checkpoint.set_rng_state(state, CPU)
    assert draw() == expected


def test_saving_takes_at_most_a_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    saver = Saver(tmp_path / "state.pt", 10.0, lambda: {})

    def slow(path: Path, state: Any) -> None:
        now[0] += 3.0  # seconds that the storage takes

    monkeypatch.setattr(checkpoint, "write", slow)
    saved_at = []
    while now[0] < 200:
        if saver.is_due:
            saved_at.append(now[0])
            saver.save()
        now[0] += 1.0
    # First when 10 s have passed, then no more than 3 s of every 3 + 60.
    assert saved_at == [10.0, 73.0, 136.0, 199.0]
