"""Functions that train by themselves: what is reported of them, seen of them and done with them in turns."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainables import function_loop, pairs
from trainables.build import build_observed
from trainables.checkpoint import rng_state
from trainables.clocks import HostClock
from trainables.isolation import isolated
from trainables.ladder import LADDER
from trainables.loading import TaskError, build_task, find_task
from trainables.pairs import time_block
from trainables.probe import probe
from trainables.report import TrialReport
from trainables.spec import Budget, Checkpoints, TimingJob, TrialSpec
from trainables.stopping import Stopping
from trainables.trial import Trial, run_trial
from trainables.turns import Turns

OWN = Path(__file__).parent / "own_functions.py"
CPU = torch.device("cpu")


def spec(name: str = "train", precision: str = "fp32", **fields: object) -> TrialSpec:
    config = fields.pop("config", {})
    known = {"budget": Budget(max_epochs=2), **fields}
    return TrialSpec("t", find_task(f"{OWN}:{name}"), config, precision, 3, **known)


def reports(*args: object, **fields: object) -> list[TrialReport]:
    found = list(run_trial(spec(*args, **fields)))
    assert [report.is_last for report in found] == [False] * (len(found) - 1) + [True]
    assert "\n" not in str(found[-1].status_reason)
    return found


def test_a_trial_reports_what_the_function_did() -> None:
    before = rng_state(CPU)
    first, end = reports(examples_of="val_accuracy")
    assert rng_state(CPU)["torch"].equal(before["torch"])
    assert rng_state(CPU)["python"] == before["python"]
    assert [(r.status, r.epoch, r.step, r.applied_steps) for r in (first, end)] == [
        ("running", 1, 4, 4),
        ("completed", 2, 8, 8),
    ]
    assert end.train_loss < first.train_loss < 1
    assert end.learning_rate == 1e-2
    assert (end.effective_precision, end.effective_share, end.route, end.compiled) == ("fp32", 1.0, "default", False)
    assert end.samples_per_s == pytest.approx(8 * 16 / end.train_s)
    assert end.step_ms == pytest.approx(1e3 * end.train_s / 8, rel=3)
    assert end.step_flops == 2 * 16 * (8 * 16 + 16 * 2) * 3 - 2 * 16 * 8 * 16  # the inputs need no gradient
    assert first.examples is None
    assert end.examples.shape == (64,)
    assert end.examples.mean() == pytest.approx(end.metrics["val_accuracy"])
    assert end.highest["val_accuracy"] == max(r.metrics["val_accuracy"] for r in (first, end))


def test_trials_differ_in_precision_alone() -> None:
    ends = {name: reports(precision=name)[-1] for name in ("fp32", "bf16-mixed", "fp16-mixed", "bf16-true")}
    assert {name: end.effective_precision for name, end in ends.items()} == {name: name for name in ends}
    assert {end.status for end in ends.values()} == {"completed"}
    assert len({end.init_digest for end in ends.values()}) == len({end.data_digest for end in ends.values()}) == 1
    assert ends["fp16-mixed"].loss_scale == 65536
    assert ends["bf16-true"].peak_memory_bytes < ends["fp32"].peak_memory_bytes
    again, other_seed = reports()[-1], list(run_trial(TrialSpec(**{**vars(spec()), "seed": 4})))[-1]
    assert again.metrics == ends["fp32"].metrics
    assert other_seed.init_digest != again.init_digest
    assert other_seed.data_digest != again.data_digest


@pytest.mark.parametrize(
    ("name", "precision", "says"),
    [
        ("without_autocast", "bf16-mixed", "the step's matrix FLOPs ran as 100% float32|autocast was off"),
        ("own_autocast", "fp32", "autocast was on, to torch.bfloat16 as the model was called, not off"),
        ("without_scaler", "fp16-mixed", "the loss was not scaled"),
        ("widened", "fp32", "default_dtype was changed from torch.float32 to torch.float64"),
        ("narrowed", "fp32", "float32_matmul_precision|fp32_precision was changed"),
    ],
)
def test_no_function_s_word_is_taken_for_its_precision(name: str, precision: str, says: str) -> None:
    (end,) = reports(name, precision)
    assert end.status == "precision_mismatch"
    assert end.effective_precision != precision
    assert any(part in end.status_reason for part in says.split("|"))


def test_its_own_autocast_counts_and_its_optimizer_s_products_do_not() -> None:
    assert reports("own_autocast", "bf16-mixed")[-1].effective_precision == "bf16-mixed"
    end = reports("orthogonal")[-1]
    assert (end.status, end.effective_precision, end.effective_share) == ("completed", "fp32", 1.0)


@pytest.mark.parametrize("name", ["turns_to_bf16", "turns_to_bf16_uncounted"])
def test_the_last_step_is_watched_where_it_can_be_foreseen(name: str) -> None:
    asked = spec(name, budget=Budget(max_steps=8, report_every_steps=4))
    with isolated(LADDER["fp32"], 0, 1):
        loop, first = build_observed(asked, LADDER["fp32"], CPU)
        assert first.mismatch(LADDER["fp32"]) is None
        while not loop.is_done(asked.budget):
            loop.train(0)
        assert loop.step == 8
        assert "autocast was on" in str(loop.observe().mismatch(LADDER["fp32"]))


@pytest.mark.parametrize(
    ("name", "fields", "status", "says"),
    [
        ("unprepared", {}, "errored", "run.prepare(model, optimizer) must be called before the first step"),
        ("stepless", {}, "errored", "must make steps, got none; put each one in: with run.step()"),
        ("silent", {}, "errored", "must report after its last step, got 8 steps without; call run.report"),
        ("raises", {}, "errored", "KeyError: 'planted in step 3' (own_functions.py:"),
        ("exits", {}, "errored", "SystemExit: planted"),
        ("nested", {}, "errored", "run.step() must end before the next begins"),
        ("another_model", {}, "errored", "the model that run.prepare was given must be called in a step"),
        ("another_optimizer", {}, "errored", "run.prepare must be given an optimizer over the model's parameters"),
        ("reports_words", {}, "errored", "run.report must be given numbers, got str for accuracy"),
        (
            "reports_words",
            {"config": {"word": "train_loss"}},
            "errored",
            "run.report must be given numbers, got str for train_loss",
        ),
        ("diverges", {}, "diverged", "the training loss was not finite, first at step 6 (3 by step 8)"),
        ("loses_validation", {}, "diverged", "val_loss became nan by step 4"),
        ("hungry", {}, "out_of_memory", ""),
        (
            "train",
            {"stopping": Stopping("val_loss", "min", {"val_acc": (0.9, "max")})},
            "errored",
            "must report the metric val_acc, got val_accuracy, val_loss; give stop_at",
        ),
        ("turns_unforeseen", {}, "precision_mismatch", "by step 8, autocast was on, to torch.bfloat16 as the"),
        ("train", {"compile": True}, "errored", "calls its model itself; leave compile off"),
        (
            "train",
            {"checkpoints": Checkpoints("/nowhere", 30, "val_f1", "max")},
            "errored",
            "must report the metric val_f1, got val_accuracy, val_loss; give metric",
        ),
    ],
)
def test_what_goes_wrong_is_the_status_and_one_line(name: str, fields: dict, status: str, says: str) -> None:
    threads = threading.active_count()
    end = reports(name, **fields)[-1]
    assert (end.status, says in str(end.status_reason)) == (status, True), end.status_reason
    assert threading.active_count() == threads


def test_a_nan_is_noticed_before_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.course.LOOK_EVERY_S", 0.0)
    (end,) = reports("diverges", budget=Budget(max_epochs=100, report_every_steps=1000))[-1:]
    assert (end.status, end.metrics) == ("diverged", {})
    assert end.step < 10


@pytest.mark.parametrize(
    ("name", "budget", "steps", "epochs"),
    [
        ("train", Budget(max_epochs=3), [4, 8, 12], [1, 2, 3]),
        ("as_told", Budget(max_steps=6), [6], [1]),
        ("as_told", Budget(max_steps=6, report_every_steps=2), [2, 4, 6], [0, 1, 1]),
        ("endless", Budget(max_epochs=2), [3, 6], [1, 2]),
        ("endless", Budget(max_steps=3), [3], [1]),
        ("brief", Budget(max_epochs=5), [2], [1]),
        ("in_two_phases", Budget(max_epochs=3), [4, 8, 12], [1, 2, 3]),
        ("survives", Budget(max_epochs=2), [3, 6], [1, 2]),
        ("alternates", Budget(max_epochs=2), [8, 16], [1, 2]),
    ],
)
def test_it_ends_with_its_budget_or_by_itself(name: str, budget: Budget, steps: list, epochs: list) -> None:
    found = reports(name, budget=budget)
    assert [(r.step, r.epoch) for r in found] == list(zip(steps, epochs, strict=True))
    assert found[-1].status == "completed"


def test_epochs_without_a_step_are_refused_before_they_go_on_for_ever() -> None:
    says = r"got ValueError: run\.epochs\(\) must make steps in each epoch, got none in epoch 0; put each optimizer"
    with pytest.raises(TaskError, match=says):
        list(probe(spec("stepless_epochs"), ["fp32"]))


def test_intervals_of_watched_steps_alone_have_a_time() -> None:
    found = reports("as_told", budget=Budget(max_steps=3, report_every_steps=1))
    times = [report.train_s for report in found]
    assert 0 < times[0] < times[1] < times[2]
    assert times[2] - times[1] == pytest.approx(times[1] - times[0])  # the last was watched, as the first
    assert found[-1].steps_per_s == pytest.approx(3 / times[2])


def test_a_function_that_is_stopped_early_has_what_was_seen_by_then() -> None:
    stopping = Stopping("val_loss", "min", {"val_loss": (100.0, "min")})
    (end,) = reports("train", stopping=stopping)
    assert (end.status, end.status_reason) == ("completed", "val_loss reached 100 by step 4")


def test_a_trial_that_is_stopped_leaves_no_thread_and_no_open_file(tmp_path: Path) -> None:
    threads, file = threading.active_count(), tmp_path / "left"
    running = Trial(spec("cleans_up", config={"file": str(file)}, budget=Budget(max_epochs=9))).reports()
    next(running)
    assert threading.active_count() == threads + 1
    assert not file.exists()
    running.close()
    assert threading.active_count() == threads
    assert file.read_text() == "Stopped"


def test_it_can_be_neither_saved_nor_loaded(tmp_path: Path) -> None:
    trial = Trial(spec(checkpoints=Checkpoints(str(tmp_path), 0.0, "val_loss", "min")))
    running = trial.reports()
    next(running)
    with pytest.raises(TaskError, match="must be saved, which a function that trains by itself cannot be; choose a"):
        trial.state_dict()
    assert not list(tmp_path.rglob("state.pt"))
    with pytest.raises(TaskError, match="a function that trains by itself; make the model as the function does"):
        build_task(find_task(f"{OWN}:train"), {})


def test_the_probe_takes_a_few_steps_and_leaves_the_metrics_open() -> None:
    found = list(probe(spec(), ["bf16-mixed"]))
    assert [(r.status, r.effective_precision, r.metrics) for r in found] == [("completed", "bf16-mixed", ())]
    assert found[0].samples_per_s == pytest.approx(1e3 * 16 / found[0].step_ms)
    with pytest.raises(TaskError, match=r"must come to its first step with the configuration .*run\.prepare"):
        list(probe(spec("unprepared"), ["fp32"]))


def test_arms_take_turns_over_the_same_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "MIN_WINDOW_MS", 1.0)
    monkeypatch.setattr(pairs, "waiting_ns", dict)  # else rounds that other work here disturbs would be repeated
    job = TimingJob(spec("train"), ("fp32", "bf16-mixed", "bf16-true"), windows=2)
    record = time_block(job)
    assert (record["status"], record["status_reason"], record["batch_size"]) == ("completed", None, 16)
    arms = record["arms"]
    assert [arm["precision"] for arm in arms] == ["fp32", "bf16-mixed", "bf16-true", "fp32"]
    assert [arm["effective_precision"] for arm in arms] == [arm["precision"] for arm in arms]
    assert len({arm["init_digest"] for arm in arms}) == len({arm["data_digest"] for arm in arms}) == 1
    assert {len(arm["window_ms"]) for arm in arms} == {2}


def test_time_between_an_epoch_s_last_step_and_the_next_is_not_a_step_s() -> None:
    asked = spec("evaluates_slowly", budget=Budget(max_epochs=1))
    with isolated(LADDER["fp32"], 0, 1):
        loop, _ = build_observed(asked, LADDER["fp32"], CPU, num_steps=False)
        loop.train(3)
        clock = HostClock()
        clock.tick()
        loop.train_steps(12, None, clock)
        times = clock.step_ms()
    assert len(times) >= 12  # what comes before the first is none
    assert sum(times) < 12 * 20  # three evaluations of 100 ms lie between them


def test_a_function_that_ends_while_it_is_timed_begins_anew() -> None:
    with isolated(LADDER["fp32"], 0, 1):
        loop, _ = build_observed(spec("brief"), LADDER["fp32"], CPU, num_steps=False)
        digest = loop.init_digest
        loop.train(9)
        assert (loop.step, loop.init_digest) == (10, digest)


def test_turns_exchange_generators_and_end_where_they_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    def alone(seed: int) -> list[float]:
        random.seed(seed)
        torch.manual_seed(seed)
        return [random.random() + float(torch.rand(())) for _ in range(4)]

    def drawing(seed: int, into: list[float]) -> Callable[[], None]:
        def draw() -> None:
            random.seed(seed)
            torch.manual_seed(seed)
            for _ in range(4):
                into.append(random.random() + float(torch.rand(())))
                here[seed].pause()

        return draw

    found: dict[int, list[float]] = {1: [], 2: []}
    here = {seed: Turns(drawing(seed, into), CPU) for seed, into in found.items()}
    before = torch.get_rng_state()
    for seed in (1, 2, 2, 1, 1, 2, 2, 1):
        here[seed].resume()
    assert torch.equal(torch.get_rng_state(), before)
    assert found == {1: alone(1), 2: alone(2)}
    here[1].resume()
    here[2].stop()
    assert here[1].has_ended
    assert here[2].has_ended


def test_a_loop_that_nobody_holds_ends_its_function() -> None:
    threads = threading.active_count()
    with isolated(LADDER["fp32"], 0, 1):
        loop, _ = build_observed(spec(), LADDER["fp32"], CPU)
        assert isinstance(loop, function_loop.FunctionLoop)
        assert threading.active_count() == threads + 1
        del loop
        deadline = time.monotonic() + 5
        while threading.active_count() > threads and time.monotonic() < deadline:
            time.sleep(0.01)
    assert threading.active_count() == threads
