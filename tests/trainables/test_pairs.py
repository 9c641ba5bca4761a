"""Blocks: the order of windows, what the arms share, and a server whose jobs cannot disturb each other."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from trainables import contention, pairs
from trainables.contention import is_contended
from trainables.pairs import arm_names, time_block
from trainables.spec import TimingJob, TrialSpec

pytestmark = pytest.mark.quiet

ROOT = Path(__file__).parents[2]
MakeSpec = Callable[..., TrialSpec]


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "MIN_WINDOW_MS", 1.0)


def run_with(monkeypatch: pytest.MonkeyPatch, num_arms: int, windows: int, waited: Sequence[float | None]):
    """Runs the rounds over arms whose windows are made up; the order of windows, the arms, and the judgement."""
    shares, order = iter(waited), []
    arms = [pairs.Arm(pairs.Name(str(index)), loop=None, first=None, last=None) for index in range(num_arms)]

    def window(arm: pairs.Arm, num_steps: int) -> tuple[float, float | None]:
        order.append(int(arm.name.precision))
        return float(len(order)), next(shares, 0.0)

    monkeypatch.setattr(pairs, "_window", window)
    contended = pairs._run(arms, windows)
    return order[num_arms:], arms, contended  # the first windows only set the number of steps


@pytest.mark.parametrize(
    ("num_arms", "order"),
    [
        (2, [0, 1, 1, 0, 0, 1, 1, 0]),
        (3, [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0]),
        (4, [0, 1, 2, 3, 3, 2, 1, 0, 0, 1, 2, 3, 3, 2, 1, 0]),
    ],
)
def test_windows_go_there_and_back(monkeypatch: pytest.MonkeyPatch, num_arms: int, order: list[int]) -> None:
    found, arms, contended = run_with(monkeypatch, num_arms, 4, [])
    assert found == order
    assert {len(arm.window_ms) for arm in arms} == {4}
    assert contended is False


def test_a_disturbed_round_is_run_again_in_the_same_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two windows to set out; then a clean round, a disturbed one and a clean one.
    waited = [0.0, 0.0, 0.05, 0.0, 0.0, 0.5, 0.0, 0.0]
    order, arms, contended = run_with(monkeypatch, 2, 2, waited)
    assert order == [0, 1, 1, 0, 1, 0]
    assert [arm.window_ms for arm in arms] == [[3.0, 8.0], [4.0, 7.0]]
    assert contended is False


def test_where_no_round_stays_clean_the_disturbed_ones_count_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six rounds at most two must be clean: the fifth that is not decides it."""
    assert pairs.PATIENCE == 3
    order, arms, contended = run_with(monkeypatch, 2, 2, [0.5] * 100)
    assert len(order) == 2 * 5
    assert {len(arm.window_ms) for arm in arms} == {5}
    assert contended is True


def test_patience_lasts_while_enough_rounds_may_still_be_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, disturbed = [0.0, 0.0], [0.0, 0.5]
    waited = [clean, *[disturbed] * 2, clean, *[disturbed] * 2, clean]  # the first sets out; the last one is the sixth
    order, arms, contended = run_with(monkeypatch, 2, 2, [share for each in waited for share in each])
    assert len(order) == 2 * 6
    assert [arm.window_ms for arm in arms] == [[7.0, 14.0], [8.0, 13.0]]
    assert contended is False


def test_where_the_system_does_not_tell_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_with(monkeypatch, 2, 2, [None] * 100)[2] is None


def test_the_copy_is_of_the_baseline_and_stands_at_the_other_end(make_spec: MakeSpec) -> None:
    baseline, other, by_default, copy = (
        ("tf32", False, False),
        ("bf16-mixed", False, False),
        ("tf32", False, True),
        (
            "tf32",
            True,
            False,
        ),
    )
    precisions, routes = ("tf32", "bf16-mixed"), {"tf32": "onednn"}
    assert arm_names(TimingJob(make_spec(seed=4), precisions)) == [baseline, other, copy]
    assert arm_names(TimingJob(make_spec(seed=5), precisions)) == [copy, other, baseline]
    assert arm_names(TimingJob(make_spec(seed=4), precisions, routes)) == [baseline, other, by_default, copy]
    assert arm_names(TimingJob(make_spec(seed=5), precisions, routes)) == [copy, other, by_default, baseline]


@pytest.mark.parametrize(
    ("waited", "contended"),
    [([0.0, 0.1], False), ([0.0, 0.11], True), ([None, 0.2], True), ([None, 0.0], False), ([None, None], None)],
)
def test_contention_is_time_spent_waiting_for_a_processor(waited: list, contended: bool | None) -> None:
    assert is_contended(waited) is contended


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not tell who waits")
def test_other_work_on_the_processor_is_noticed_and_sleeping_is_not(make_spec: MakeSpec, short_windows: None) -> None:
    allowed = os.sched_getaffinity(0)
    before = contention.waiting_ns()
    time.sleep(0.2)
    slept = contention.waiting_ns()
    assert max(slept[thread] - before[thread] for thread in before) < 0.1e9
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(busy.pid, {min(allowed)})
        os.sched_setaffinity(0, {min(allowed)})
        record = time_block(TimingJob(make_spec(), ("fp32", "bf16-mixed"), windows=2))
    finally:
        os.sched_setaffinity(0, allowed)
        busy.kill()
        busy.wait()
    assert (record["status"], record["contended"]) == ("completed", True)
    says = r"threads waited up to \d+% of a window for a processor; (busiest other process: .* \(pid \d+|no other)"
    assert re.match(says, record["contention"])


def test_the_busiest_other_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that this test started, since others on this machine may be busier."""
    looked = contention.processor_s
    programs = ("while True: pass", "import time; time.sleep(60)")
    started = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    mine = {os.getpid(), *(process.pid for process in started)}
    monkeypatch.setattr(contention, "processor_s", lambda: {k: v for k, v in looked().items() if k in mine})
    try:
        neighbours = contention.Neighbours()
        assert neighbours.reason(False, [0.05, None]) is None
        time.sleep(0.5)
        reason = str(neighbours.reason(True, [0.05, None, 0.234]))
    finally:
        for process in started:
            process.kill()
            process.wait()
    expected = (
        rf"threads waited up to 23% of a window for a processor; busiest other process: \S+ \(pid {started[0].pid}, "
    )
    assert re.match(expected, reason)
    assert "no other process" in contention.Neighbours().on_the_processors()


def test_arms_of_a_block_differ_in_precision_alone(make_spec: MakeSpec, short_windows: None) -> None:
    record = time_block(TimingJob(make_spec(seed=4), ("fp32", "bf16-mixed", "bf16-true"), windows=3))
    assert (record["status"], record["status_reason"], record["batch_size"]) == ("completed", None, 16)
    assert isinstance(record["contended"], bool)
    assert (record["contention"] is not None) is record["contended"]
    arms = record["arms"]
    assert all(0 < arm["cpus_used"] < 1.1 for arm in arms)  # one thread
    assert {arm["power_w"] for arm in arms} == {None}
    assert [(arm["precision"], arm["is_copy"]) for arm in arms] == [
        ("fp32", False),
        ("bf16-mixed", False),
        ("bf16-true", False),
        ("fp32", True),
    ]
    assert [arm["effective_precision"] for arm in arms] == [arm["precision"] for arm in arms]
    assert len({arm["init_digest"] for arm in arms}) == 1
    assert len({arm["data_digest"] for arm in arms}) == 1
    assert all(len(arm["window_ms"]) >= 3 and min(arm["window_ms"]) > 0 for arm in arms)
    assert arms[0]["peak_memory_bytes"] == arms[3]["peak_memory_bytes"] > arms[2]["peak_memory_bytes"]
    other = time_block(TimingJob(make_spec(seed=6), ("fp32",), windows=1))["arms"]
    assert other[0]["init_digest"] != arms[0]["init_digest"]


def test_windows_are_long_enough_and_of_as_many_steps_in_every_arm(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool, int, float]] = []
    window = pairs._window

    def watched(arm: pairs.Arm, num_steps: int) -> tuple[float, float | None]:
        step_ms, _ = window(arm, num_steps)
        seen.append((arm.name.precision, arm.name.is_copy, num_steps, step_ms))
        return step_ms, None  # else rounds that other work on this machine disturbs would be repeated

    assert (pairs.MIN_STEPS, pairs.MIN_WINDOW_MS) == (10, 50)
    monkeypatch.setattr(pairs, "MIN_WINDOW_MS", 8.0)
    monkeypatch.setattr(pairs, "_window", watched)
    time_block(TimingJob(make_spec("slow_below_fp32", seed=4), ("fp32", "bf16-mixed"), windows=2))
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
