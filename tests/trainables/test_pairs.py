"""Blocks: the order of windows, what the arms share, and a server whose jobs cannot disturb each other."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainables import pairs
from trainables.pairs import arm_names, is_contended, rounds, time_block
from trainables.spec import TimingJob, TrialSpec

ROOT = Path(__file__).parents[2]
MakeSpec = Callable[..., TrialSpec]


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "MIN_WINDOW_MS", 1.0)


@pytest.mark.parametrize(
    ("num_arms", "order"),
    [
        (2, [0, 1, 1, 0, 0, 1, 1, 0]),
        (3, [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0]),
        (4, [0, 1, 2, 3, 3, 2, 1, 0, 0, 1, 2, 3, 3, 2, 1, 0]),
    ],
)
def test_windows_go_there_and_back(num_arms: int, order: list[int]) -> None:
    assert rounds(num_arms, 4) == order
    assert set(Counter(rounds(num_arms, 9)).values()) == {9}


def test_the_copy_is_of_the_baseline_and_comes_last() -> None:
    assert arm_names(["tf32", "bf16-mixed"]) == [("tf32", False), ("bf16-mixed", False), ("tf32", True)]


@pytest.mark.parametrize(
    ("running", "contended"), [([0.99, 0.98, 0.2], False), ([0.5, 0.6, 1.0], True), ([0.9], False), ([0.89], True)]
)
def test_contention_is_judged_by_the_typical_window(running: list[float], contended: bool) -> None:
    assert is_contended(running) is contended


def test_arms_of_a_block_differ_in_precision_alone(make_spec: MakeSpec, short_windows: None) -> None:
    record = time_block(TimingJob(make_spec(), ("fp32", "bf16-mixed", "bf16-true"), windows=3))
    assert (record["status"], record["status_reason"], record["batch_size"]) == ("completed", None, 16)
    assert isinstance(record["contended"], bool)
    arms = record["arms"]
    assert [(arm["precision"], arm["is_copy"]) for arm in arms] == [
        ("fp32", False),
        ("bf16-mixed", False),
        ("bf16-true", False),
        ("fp32", True),
    ]
    assert [arm["effective_precision"] for arm in arms] == [arm["precision"] for arm in arms]
    assert len({arm["init_digest"] for arm in arms}) == 1
    assert len({arm["data_digest"] for arm in arms}) == 1
    assert all(len(arm["window_ms"]) == 3 and min(arm["window_ms"]) > 0 for arm in arms)
    assert arms[0]["peak_memory_bytes"] == arms[3]["peak_memory_bytes"] > arms[2]["peak_memory_bytes"]
    other = time_block(TimingJob(make_spec(seed=6), ("fp32",), windows=1))["arms"]
    assert other[0]["init_digest"] != arms[0]["init_digest"]


def test_windows_are_long_enough_and_of_as_many_steps_in_every_arm(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool, int, float]] = []
    window = pairs._window

    def watched(arm: pairs.Arm, num_steps: int) -> float:
        step_ms = window(arm, num_steps)
        seen.append((arm.precision, arm.is_copy, num_steps, step_ms))
        return step_ms

    assert (pairs.MIN_STEPS, pairs.MIN_WINDOW_MS) == (10, 50)
    monkeypatch.setattr(pairs, "MIN_WINDOW_MS", 8.0)
    monkeypatch.setattr(pairs, "_window", watched)
    time_block(TimingJob(make_spec("slow_below_fp32"), ("fp32", "bf16-mixed"), windows=2))
    trial, timed = seen[:3], seen[3:]
    fastest = min(step_ms for *_, step_ms in trial)
    assert {num_steps for *_, num_steps, _ in timed} == {max(10, int(8 / fastest) + 1)}
    baseline, slow, copy = ("fp32", False), ("bf16-mixed", False), ("fp32", True)
    assert [key[:2] for key in timed] == [baseline, slow, copy, copy, slow, baseline]
    assert all(step_ms > 30 for name, *_, step_ms in timed if name == "bf16-mixed")


@pytest.mark.parametrize(
    ("task", "status", "says"),
    [
        ("raises_in_build", "errored", "planted in build"),
        ("raises_in_step_3", "errored", "planted in step 3"),
        ("exits", "errored", "SystemExit"),
        ("out_of_memory_in_forward", "out_of_memory", "allocate"),
    ],
)
def test_a_block_that_fails_says_why(make_spec: MakeSpec, task: str, status: str, says: str) -> None:
    record = time_block(TimingJob(make_spec(task), ("fp32", "bf16-mixed"), windows=1))
    assert (record["status"], record["arms"]) == (status, [])
    assert says in record["status_reason"]
    assert record["node"]


@pytest.fixture
def server() -> Iterator[Callable[[TimingJob], dict[str, Any]]]:
    """A server that answers one job at a time, and must end by itself when its input does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "trainables.pairs"]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True, env=environment)

    def ask(job: TimingJob) -> dict[str, Any]:
        print(job.to_json(), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())

    try:
        yield ask
        rest, _ = process.communicate(timeout=30)
        assert (rest, process.returncode) == ("", 0)
    finally:
        process.kill()


def test_the_server_answers_every_job_whatever_the_one_before_did(
    server: Callable[[TimingJob], dict[str, Any]], make_spec: MakeSpec
) -> None:
    def ask(task: str, **config: Any) -> dict[str, Any]:
        return server(TimingJob(make_spec(task, config={"batch_size": 64, **config}), ("fp32",), windows=1))

    assert ask("leaves_a_mark")["status"] == "completed"
    again = ask("leaves_a_mark")
    assert (again["status"], again["status_reason"], len(again["arms"])) == ("completed", None, 2)
    for config, says in (
        ({"how": "signal", "signal": signal.SIGKILL}, "ended by signal 9"),
        ({"how": "exit", "code": 3}, "ended with exit code 3, without an answer"),
        ({"how": "exit", "code": 0}, "ended with exit code 0, without an answer"),
    ):
        died = ask("kills_its_process", **config)
        assert (died["status"], died["arms"]) == ("errored", [])
        assert died["status_reason"] == f"the timing process {says}"
        assert died["node"]
    assert ask("raises_in_build")["status"] == "errored"
    assert ask("build")["status"] == "completed"
