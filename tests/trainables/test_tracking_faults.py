"""Trackers cost the trial nothing, whatever becomes of them: of their process, their library, its server, the disk."""

import dataclasses
import os
import socket
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from trackers import SLACK_S, family, is_at_work, report, reports_of, steps_of, tracking, wait_of, within
from wandb_files import read_runs

from trainables import tracked as client
from trainables.tracked import Tracked

KEY = "0" * 40


def test_a_trial_waits_for_its_trackers_for_five_seconds_at_most():
    assert 4 < signature(Tracked.wait).parameters["seconds"].default < 5  # with what is done beside waiting


def test_the_trackers_process_may_die(outbox: Any, tmp_path: Path):
    tracked = Tracked(tracking(tmp_path), "a", {})
    reports_of(tracked, range(1, 10))
    (process, *_) = family(client._OUTBOX)
    process.kill()
    within(30, lambda: not process.is_running())
    wrong = reports_of(tracked, range(10, 200))
    assert wrong == ["wandb: its process ended before its time"]
    tracked.saw(report(200, "completed"))
    took, again = wait_of(tracked)
    assert (took < 1, again) == (True, None)
    tracked = Tracked(tracking(tmp_path), "b", {})
    tracked.saw(report(1, "completed"))
    tracked.wait()
    assert tracked.news() is None
    within(30, lambda: [run.name for run in read_runs(tmp_path) if run.exit_code == 0] == ["b"])


def test_a_process_that_stands_still_delays_nothing_and_gets_all_in_the_end(outbox: Any, tmp_path: Path):
    tracked = Tracked(tracking(tmp_path), "t", {})
    (process, *_) = family(client._OUTBOX)
    process.suspend()
    assert reports_of(tracked, range(1, 600)) == []
    tracked.saw(report(600, "completed"))
    assert client._OUTBOX._courier._unsent  # the pipe is full
    took, _ = wait_of(tracked, 1.0)
    assert 0.9 < took < 1 + SLACK_S
    following = Tracked(tracking(tmp_path), "u", {})
    following.saw(report(1, "completed"))
    took, _ = wait_of(following)
    assert took < 1  # one that is late already is not waited for again
    process.resume()
    assert within(120, lambda: not client._OUTBOX._courier.is_open(1) and not client._OUTBOX._courier.is_open(2))
    runs = within(30, lambda: all(r.exit_code == 0 for r in read_runs(tmp_path)) and read_runs(tmp_path))
    assert {run.name: steps_of([run]) for run in runs} == {"t": list(range(1, 601)), "u": [1]}


def test_w_and_b_s_own_process_may_die(outbox: Any, tmp_path: Path):
    tracked = Tracked(tracking(tmp_path), "t", {})
    reports_of(tracked, range(1, 10))
    service = within(60, lambda: [each for each in family(client._OUTBOX) if "wandb-core" in each.name()])
    within(60, lambda: read_runs(tmp_path))
    for process in service:
        process.kill()
    assert reports_of(tracked, range(10, 500)) == []
    tracked.saw(report(500, "completed"))
    took, wrong = wait_of(tracked)
    assert took < 5 + SLACK_S
    assert wrong is None
    within(30, lambda: [run.exit_code for run in read_runs(tmp_path)] == [None, 0])
    steps = steps_of(read_runs(tmp_path))  # what the dead process had not yet written is lost, and nothing else
    assert len(set(steps)) == len(steps)
    assert set(range(10, 501)) <= set(steps) <= set(range(1, 501))


def test_w_and_b_may_have_no_room(outbox: Any, tmp_path: Path):
    if os.geteuid():
        pytest.skip("only root can mount a file system of 64 KiB")
    full = tmp_path / "full"
    full.mkdir()
    if os.system(f"mount -t tmpfs -o size=64k ampsweep-test {full}"):
        pytest.skip("nothing can be mounted here")
    try:
        (full / "fill").write_bytes(bytes(60 * 1024))
        tracked = Tracked(tracking(full), "t", {})
        reports_of(tracked, range(1, 2000))
        tracked.saw(report(2000, "completed"))
        took, _ = wait_of(tracked, 1.0)
        assert took < 1 + SLACK_S
        for process in family(client._OUTBOX):
            process.kill()
    finally:
        os.system(f"umount -l {full}")


def test_w_and_b_may_have_no_folder(outbox: Any, tmp_path: Path):
    (tmp_path / "file").write_text("")
    tracked = Tracked(tracking(tmp_path / "file"), "t", {})
    reports_of(tracked, range(1, 100))
    tracked.saw(report(100, "completed"))
    took, _ = wait_of(tracked, 1.0)
    assert took < 1 + SLACK_S


@pytest.mark.parametrize("answers", [False, None], ids=["refuses", "is silent"])
def test_w_and_b_s_server_may_not_be_there(outbox: Any, tmp_path: Path, answers: bool | None):
    """A port at which nobody listens, and one at which somebody does who never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if answers is False:
            server.close()
        there = {"WANDB_MODE": "online", "WANDB_BASE_URL": address, "WANDB_API_KEY": KEY, "WANDB_INIT_TIMEOUT": "3"}
        tracked = Tracked(tracking(tmp_path, **there), "t", {})
        assert reports_of(tracked, range(1, 500)) == []
        tracked.saw(report(500, "completed"))
        took, _ = wait_of(tracked, 1.0)
        assert took < 1 + SLACK_S
        courier = client._OUTBOX._courier
        within(60, lambda: not courier.is_open(1))
        (wrong,) = courier.warnings()
        assert wrong.startswith("wandb: ")
        assert "wandb sync" in wrong
        runs = within(30, lambda: [run for run in read_runs(tmp_path) if run.exit_code == 0])
        assert steps_of(runs) == list(range(1, 501))


def test_nobody_waits_for_the_trackers_process_when_this_one_ends(outbox: Any, tmp_path: Path):
    tracked = Tracked(tracking(tmp_path), "t", {})
    reports_of(tracked, range(1, 10))
    within(60, lambda: read_runs(tmp_path))  # begun; W&B itself writes down what it has every 15 s
    processes = family(client._OUTBOX)
    assert os.getsid(processes[0].pid) != os.getsid(0)
    client._OUTBOX.leave()  # as when the process is killed: the pipe ends
    within(60, lambda: not any(map(is_at_work, processes)))
    (run,) = read_runs(tmp_path)
    assert steps_of([run]) == list(range(1, 10))
    assert (run.summary["status"], run.exit_code) == ("lost", 1)


def test_what_goes_wrong_is_said_once(outbox: Any, tmp_path: Path):
    said = []
    for name in "abc":
        tracked = Tracked(dataclasses.replace(tracking(tmp_path), trackers=("nothing",)), name, {})
        tracked.saw(report(1, "completed"))
        tracked.wait()
        said.append(tracked.news())
    assert said[0] is not None
    assert "track_nothing" in said[0]
    assert said[1:] == [None, None]
