"""Two workers of a trial do what one does: the same steps, figures and ends, and none waits for one that is gone."""

import dataclasses
import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import teamwork
import torch
from torchmetrics.classification import MulticlassF1Score

from trainables.contention import Seen, waited_for_others
from trainables.data import TrainingData, validation_batches
from trainables.language.macro_f1 import MacroF1
from trainables.loading import find_task
from trainables.meeting import Meeting, WorkerLost
from trainables.spec import STATE_FILE, Budget, Checkpoints, TrialSpec
from trainables.team import ALONE, Team, open_store

HERE = Path(__file__).parent
CPU = torch.device("cpu")
Together = Callable[..., list[Any]]


def spec(num_workers: int, folder: Path | None = None, precision: str = "fp32", **config: Any) -> TrialSpec:
    kept = None if folder is None else Checkpoints(str(folder), 0, "val_accuracy", "max")
    hyper = {"batch_size": 16, "accumulate_steps": 2, "learning_rate": 0.01, "lr_schedule": "cosine"}
    source = find_task(f"{HERE / 'teamwork.py'}:build")
    budget = Budget(max_steps=12, report_every_steps=4)
    fields = {"num_workers": num_workers, "examples_of": "val_accuracy", "checkpoints": kept}
    return TrialSpec("t", source, {**hyper, **config}, precision, 5, budget, **fields)


HYPER = [
    {"batch_size": 16},
    {"batch_size": 15, "accumulate_steps": 3, "max_grad_norm": 0.5, "optimizer": "sgd", "learning_rate": 0.1},
    {"batch_size": 16, "accumulate_steps": 2, "warmup_frac": 0.2, "lr_schedule": "cosine", "weight_decay": 0.1},
]


@pytest.mark.parametrize("hyper", HYPER, ids=["plain", "unequal shares", "schedule"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_twenty_steps_of_two_are_those_of_one(
    together: Together, hyper: dict[str, Any], dtype: torch.dtype, limit: float
) -> None:
    alone = teamwork.train(None, dtype, 20, hyper)
    first, second = together(teamwork.train, dtype, 20, hyper)
    assert torch.equal(first["weights"], second["weights"])
    difference = first["weights"] - alone["weights"]
    assert difference.abs().max() < limit if dtype is torch.float64 else difference.norm() < limit
    figures = {name: value for name, value in dataclasses.asdict(alone["progress"]).items() if value is not None}
    assert {name: getattr(first["progress"], name) for name in figures} == pytest.approx(figures, rel=1e-5)
    assert first["progress"] == second["progress"]
    assert first["digest"] == second["digest"] == alone["digest"]


def test_a_loss_scale_that_overflows_skips_the_same_steps_in_all_workers(together: Together) -> None:
    hyper = {"batch_size": 16, "learning_rate": 1e-2, "warmup_frac": 0.5}
    alone = teamwork.train(None, torch.float32, 6, hyper, "fp16-mixed")
    first, second = together(teamwork.train, torch.float32, 6, hyper, "fp16-mixed")
    assert first["progress"] == second["progress"]
    assert first["progress"].loss_scale == alone["progress"].loss_scale
    assert (first["weights"] - alone["weights"]).norm() < 1e-3


def test_evaluation_is_that_of_one(together: Together) -> None:
    f1 = functools.partial(MulticlassF1Score, num_classes=2)
    own_f1 = functools.partial(MacroF1, 2)
    metrics = {
        "f1": f1,
        "own_f1": own_f1,
        "counted": teamwork.Counting,
        "right": teamwork.right,
        "share": teamwork.share,
    }
    alone, examples = teamwork.evaluate(None, metrics)
    for values, own in together(teamwork.evaluate, metrics):
        assert values == pytest.approx(alone, abs=1e-6)
        assert own["val_right"].tolist() == examples["val_right"].tolist()
    assert 0 < alone["val_right"] < 1
    assert alone["val_own_f1"] == pytest.approx(alone["val_f1"], abs=1e-6)


@pytest.mark.parametrize("lengths", [None, list(range(1, 65))])
@pytest.mark.parametrize(("batch_size", "num_parts", "size"), [(16, 1, 2), (15, 3, 2), (12, 2, 5), (64, 1, 3)])
def test_workers_share_every_micro_batch(lengths: Any, batch_size: int, num_parts: int, size: int) -> None:
    task = teamwork.Task(teamwork.Spare(), teamwork.data(num_items=64), teamwork.data(num_items=64), lengths=lengths)
    whole = TrainingData(task, batch_size, num_parts, 0, CPU, None)
    own = [TrainingData(task, batch_size, num_parts, 0, CPU, None, Team(rank, size)) for rank in range(size)]
    streams = [data.batches() for data in own]
    for step, parts in zip(range(2 * whole.steps_per_epoch), whole.batches(), strict=False):
        found = [next(stream) for stream in streams]
        for index, part in enumerate(parts):
            rows = torch.cat([worker[index][0] for worker in found])
            assert sorted(rows.tolist()) == sorted(part[0].tolist()), step
            sizes = [len(worker[index][0]) for worker in found]
            assert max(sizes) - min(sizes) <= 1
            assert [data.shares[index] for data in own] == pytest.approx([n * size / batch_size for n in sizes])
    assert {data.digest() for data in own} == {whole.digest()}


def test_what_workers_cannot_share_is_refused() -> None:
    task = teamwork.Task(teamwork.Spare(), teamwork.data(num_items=8), teamwork.data(num_items=2))
    with pytest.raises(ValueError, match=r"batch_size must give each of 3 workers an example .* got 4 in 2; use"):
        TrainingData(task, 4, 2, 0, CPU, None, Team(2, 3))
    with pytest.raises(ValueError, match="val_set must hold an example for each of 3 workers, got 2"):
        validation_batches(task, 4, CPU, None, Team(0, 3))


def measured(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without times, and what the machine gives otherwise each time."""
    gone = {
        name
        for name in reports[0]
        if name.endswith(("_s", "_ms", "wait_share")) or name in ("checkpoint", "peak_memory_bytes")
    }
    return [{k: v for k, v in report.items() if k not in gone} | {"examples": None} for report in reports]


def test_a_trial_of_two_reports_what_one_of_one_does(together: Together, tmp_path: Path) -> None:
    alone = teamwork.run(None, spec(1, tmp_path / "one"))
    first, second = together(teamwork.run, spec(2, tmp_path / "two"))
    assert [report["status"] for report in first] == ["running", "running", "completed"]
    for one, two in zip(alone, first, strict=True):
        for name in ("step", "epoch", "init_digest", "data_digest", "effective_precision", "step_flops"):
            assert one[name] == two[name], name
        for name in ("train_loss", "grad_norm", "learning_rate"):
            assert one[name] == pytest.approx(two[name], rel=1e-4), name
        assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-4)
    assert (alone[-1]["examples"] == first[-1]["examples"]).all()
    weights = [torch.load(tmp_path / name / "t" / "weights.pt") for name in ("one", "two")]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-6) for name in weights[0])
    assert second[-1]["checkpoint"] is None
    assert not (tmp_path / "two" / "t" / STATE_FILE).exists()


@pytest.mark.parametrize("at", [11, 14])
def test_a_trial_of_two_goes_on_bit_for_bit(together: Together, tmp_path: Path, at: int) -> None:
    whole, _ = together(teamwork.run, spec(2, noise=True))
    left, _ = together(teamwork.run, spec(2, tmp_path, noise=True, fault="leave", at=at))
    assert left[-1]["status"] == "running"
    state = torch.load(tmp_path / "t" / STATE_FILE)
    assert len(state["other_rngs"]) == 1
    assert not torch.equal(state["rng"]["torch"], state["other_rngs"][0]["torch"])
    state["of"]["config"] = dict(spec(2, noise=True).config)
    torch.save(state, tmp_path / "t" / STATE_FILE)
    again, _ = together(teamwork.run, spec(2, tmp_path, noise=True))
    assert measured(again) == measured(whole)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_trial_goes_on_with_another_number_of_workers(
    together: Together, tmp_path: Path, before: int, after: int
) -> None:
    def go(num_workers: int, *args: Any, **config: Any) -> list[dict[str, Any]]:
        asked = spec(num_workers, *args, **config)
        return teamwork.run(None, asked) if num_workers == 1 else together(teamwork.run, asked)[0]

    whole = go(1)
    go(before, tmp_path, fault="leave", at=17)
    state = torch.load(tmp_path / "t" / STATE_FILE)
    state["of"]["config"] = dict(spec(2).config)
    torch.save(state, tmp_path / "t" / STATE_FILE)
    assert 4 < state["loop"]["step"] < 12
    again = go(after, tmp_path)
    assert [report["status"] for report in again] == ["running", "running", "completed"]
    assert again[-1]["metrics"] == pytest.approx(whole[-1]["metrics"], rel=1e-4)
    assert again[-1]["train_loss"] == pytest.approx(whole[-1]["train_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("raise", "errored", "worker 2 of 2: ValueError: planted"),
        ("weights", "errored", "must give all 2 workers of a trial the same initial weights"),
        ("lie", "precision_mismatch", "asked for fp32, but the step's matrix FLOPs ran as 100% bfloat16"),
    ],
)
def test_what_one_worker_does_wrong_ends_the_trial(together: Together, fault: str, status: str, reason: str) -> None:
    first, second = (reports[-1] for reports in together(teamwork.run, spec(2, fault=fault, at=7)))
    assert first["status"] == second["status"] == status
    assert reason in first["status_reason"]


def test_a_worker_that_is_killed_is_missed_at_once_and_the_state_stays(
    workers: ProcessPoolExecutor, tmp_path: Path
) -> None:
    store = open_store("127.0.0.1")
    first, second = (Meeting(rank, 2, "127.0.0.1", store.port) for rank in range(2))
    asked = spec(2, tmp_path, fault="kill", at=11)
    other = multiprocessing.get_context("forkserver").Process(target=teamwork.run, args=(second, asked))
    other.start()
    with pytest.raises(WorkerLost, match="one of 2 workers went away"):
        workers.submit(teamwork.run, first, asked).result(timeout=60)
    other.join()
    assert other.exitcode == -9
    assert (tmp_path / "t" / STATE_FILE).exists()


def test_the_probe_and_the_timing_of_two_agree(together: Together) -> None:
    first, second = together(teamwork.probe_all, spec(2), ["fp32", "bf16-mixed"])
    assert [result.status for result in first] == ["completed", "completed"]
    for one, two in zip(first, second, strict=True):
        assert (one.step_ms, one.route, one.effective_precision) == (two.step_ms, two.route, two.effective_precision)
    first, second = together(teamwork.time_arms, spec(2))
    assert first["status"] == "completed", first["status_reason"]
    assert [arm["window_ms"] for arm in first["arms"]] == [arm["window_ms"] for arm in second["arms"]]
    assert len({len(arm["window_ms"]) for arm in first["arms"]}) == 1
    assert first["contended"] == second["contended"]


def test_workers_that_keep_each_other_waiting_are_not_disturbed_but_other_work_is_seen() -> None:
    quiet = [Seen("a", 0.6, 1.95, 0.95), Seen("a", 0.5, 1.95, 0.96)]
    assert waited_for_others(quiet) == pytest.approx(0.04)
    assert waited_for_others([*quiet, Seen("b", 0.3, 1.9, 1.0)]) == pytest.approx(0.3)
    assert waited_for_others([Seen("a", 0.02, 2.0, 0.5), Seen("a", 0.01, 2.0, 0.5)]) == 0.02
    assert waited_for_others([Seen("a", 0.6, None, 0.9), Seen("a", None, 2.0, 0.9)]) == 0.6
    assert waited_for_others([Seen("a", None, None, 0.9)]) is None


def test_an_alarm_rings_for_all_at_the_same_call_by_the_clock_of_the_first(together: Together) -> None:
    assert len(set(together(teamwork.ring, 0.1))) == 1
    assert together(teamwork.ring, 0.0) == [1, 1]


def test_seeds_of_workers_differ_and_the_first_has_that_of_a_trial_of_one() -> None:
    assert ALONE.seed(5) == Team(0, 3).seed(5, step=9) == 5
    assert len({Team(rank, 4).seed(seed, step) for rank in range(1, 4) for seed in (5, 6) for step in (0, 9)}) == 12
