"""Trackers beside a trial: what they get, and that they cost the trial nothing, whatever becomes of them.

W&B is the real one, offline, or with a server that is not there or does not answer.
"""

import dataclasses
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from trainables import tracked as client
from trainables.report import TrialReport
from trainables.spec import Budget, Checkpoints, TrialSpec
from trainables.tracked import Outbox, Tracked, tracked_while
from trainables.tracking import LONGEST_ID, Tracking, report_row, run_id, tracked_run
from trainables.trial import run_trial

sys.path.insert(0, str(Path(__file__).parents[1]))

from wandb_files import Run, read_runs

OFFLINE = {"WANDB_MODE": "offline"}
KEY = "0" * 40
SLACK_S = 3.0
"""What a machine at work may add to a time."""


def tracking(folder: Path, trackers: tuple[str, ...] = ("wandb",), **environment: str) -> Tracking:
    return Tracking(trackers, "project", "sweep", "search", str(folder), environment or OFFLINE)


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Outbox]]:
    """Makes the process one that has told trackers nothing yet; what was started meanwhile is gone in the end."""
    made: list[Outbox] = []

    def fresh() -> Outbox:
        made.append(Outbox())
        monkeypatch.setattr(client, "_OUTBOX", made[-1])
        return made[-1]

    fresh()
    yield fresh
    for each in made:
        for process in family(each) if each._courier is not None else ():
            process.kill()


def family(outbox: Outbox) -> list[psutil.Process]:
    """The trackers' process and those that it has started."""
    courier = outbox._courier
    assert courier is not None
    within(30, lambda: courier._hear() or courier.pid or courier.is_lost)
    try:
        process = psutil.Process(courier.pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def is_at_work(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def within(seconds: float, condition: Callable[[], Any]) -> Any:
    """What a condition comes to once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
    return found


def report(step: int, status: str = "running") -> TrialReport:
    return TrialReport("t", status, step=step, epoch=step / 10, train_loss=1 / step, metrics={"val_loss": 2 / step})


def reports_of(tracked: Tracked, steps: range) -> list[str]:
    """Sends reports, none of which may take long, and gives what went wrong."""
    took, wrong = [], []
    for step in steps:
        started = time.perf_counter()
        wrong.append(tracked.saw(report(step)))
        took.append(time.perf_counter() - started)
    took.sort()
    assert took[len(took) // 2] < 0.01
    assert sum(took) < 0.01 * len(took) + SLACK_S
    return [each for each in wrong if each is not None]


def wait_of(tracked: Tracked) -> tuple[float, str | None]:
    """Seconds of waiting at a run's end, and what went wrong."""
    started = time.monotonic()
    tracked.wait()
    return time.monotonic() - started, tracked.news()


def steps_of(runs: list[Run]) -> list[int]:
    return [row["step"] for run in runs for row in run.history]


def test_run_ids_are_plain_short_and_of_one_run_each():
    assert run_id("first", "search-0001-fp32") == "first-search-0001-fp32"
    names = [("a b", "t"), ("a/b", "t"), ("a", "b-t"), ("x" * 80, "t"), ("x" * 80, "u")]
    ids = [run_id(*each) for each in names]
    assert len(set(ids)) == len(ids)
    for each in ids:
        assert len(each) <= LONGEST_ID
        assert set(each) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")


def test_hyperparameters_keep_their_names_unless_a_run_has_one_of_that_name(tmp_path: Path):
    run = tracked_run(tracking(tmp_path), "t", {"stage": 1, "learning_rate": 0.1}, precision="fp32")
    assert run.config == {
        "learning_rate": 0.1,
        "config/stage": 1,
        "stage": "search",
        "sweep": "sweep",
        "precision": "fp32",
    }


def test_a_trial_without_trackers_starts_no_process(make_spec: Callable[..., TrialSpec], outbox: Any):
    with tracked_while(make_spec()) as tracked:
        assert tracked.saw(report(1)) is None
    assert client._OUTBOX._courier is None


def test_environments_are_not_shown(tmp_path: Path):
    assert KEY not in repr(tracking(tmp_path, WANDB_API_KEY=KEY))


def test_an_offline_run_holds_all_that_a_trial_reported(
    make_spec: Callable[..., TrialSpec], outbox: Any, tmp_path: Path
):
    spec = make_spec(precision="bf16-mixed", tracking=tracking(tmp_path), budget=Budget(max_epochs=3))
    assert TrialSpec.from_dict(spec.to_dict()) == spec
    rows = []
    with tracked_while(spec) as tracked:
        for each in run_trial(spec):
            assert tracked.saw(each) is None
            rows.append(report_row(each))
    (run,) = within(30, lambda: [run for run in read_runs(tmp_path) if run.exit_code is not None])
    assert (run.run_id, run.name, run.project, run.group, run.stage) == ("sweep-t", "t", "project", "sweep", "search")
    assert run.config["precision"] == "bf16-mixed"
    assert (run.config["batch_size"], run.config["seed"]) == (16, 5)
    assert len(rows) == 3
    assert [{name: row[name] for name in rows[0]} for row in run.history] == rows
    assert {"val_loss", "val_accuracy", "learning_rate", "samples_per_s", "step_ms", "peak_memory_bytes"} <= set(
        rows[0]
    )
    assert [row["amp/effective_precision"] for row in run.history] == ["bf16-mixed"] * 3
    assert [row["amp/skipped_steps"] for row in run.history] == [0] * 3
    assert (run.summary["status"], run.exit_code) == ("completed", 0)


def test_a_trial_that_fails_ends_its_run_with_the_reason(
    make_spec: Callable[..., TrialSpec], outbox: Any, tmp_path: Path
):
    spec = make_spec("raises_in_build", tracking=tracking(tmp_path))
    with tracked_while(spec) as tracked:
        for each in run_trial(spec):
            tracked.saw(each)
    (run,) = within(30, lambda: [run for run in read_runs(tmp_path) if run.exit_code is not None])
    assert (run.summary["status"], run.history, run.exit_code) == ("errored", [], 1)
    assert "planted in build" in run.summary["status_reason"]


def test_numbers_that_are_not_finite_come_through(outbox: Any, tmp_path: Path):
    tracked = Tracked(tracking(tmp_path), "t", {})
    last = dataclasses.replace(report(1, "diverged"), train_loss=math.nan, grad_norm=math.inf)
    tracked.saw(last)
    tracked.wait()
    assert tracked.news() is None
    (run,) = within(30, lambda: [run for run in read_runs(tmp_path) if run.exit_code is not None])
    (row,) = run.history
    assert (str(row["train_loss"]).lower(), str(row["grad_norm"]).lower()) == ("nan", "inf")


def test_a_process_tracks_one_trial_after_the_other(outbox: Any, tmp_path: Path):
    where, pids = tracking(tmp_path), set()
    for name in ("a", "b", "c"):
        tracked = Tracked(where, name, {})
        assert reports_of(tracked, range(1, 6)) == []
        tracked.saw(report(6, "completed"))
        pids.add(family(client._OUTBOX)[0].pid)
    tracked.wait()
    runs = within(30, lambda: all(r.exit_code == 0 for r in read_runs(tmp_path)) and read_runs(tmp_path))
    assert {run.name: steps_of([run]) for run in runs} == {name: [1, 2, 3, 4, 5, 6] for name in "abc"}
    assert len(pids) == 1


def test_a_trial_that_goes_on_in_another_process_goes_on_with_its_run(
    make_spec: Callable[..., TrialSpec], outbox: Callable[[], Outbox], tmp_path: Path
):
    kept = Checkpoints(str(tmp_path / "checkpoints"), 0, "val_loss", "min")
    spec = make_spec(tracking=tracking(tmp_path), checkpoints=kept, budget=Budget(max_epochs=4))
    first = Tracked(spec.tracking, "t", spec.config)
    reports = run_trial(spec)
    for _ in range(3):
        first.saw(next(reports))  # its state on disk is of before the third, which comes again
    reports.close()
    first.end("running")
    first.wait()
    within(30, lambda: steps_of(read_runs(tmp_path)) == [4, 8, 12])
    outbox()
    second = Tracked(spec.tracking, "t", spec.config)
    again = [each.step for each in run_trial(spec) if second.saw(each) is None]
    second.wait()
    assert again in ([4, 8, 12, 16], [4, 8, 12, 12, 16])
    runs = within(30, lambda: len(read_runs(tmp_path)) == 2 and read_runs(tmp_path))
    within(30, lambda: steps_of(read_runs(tmp_path)) == [4, 8, 12, 16])
    assert {run.run_id for run in runs} == {"sweep-t"}


def test_a_trial_that_goes_on_with_other_hyperparameters_reports_anew(outbox: Callable[[], Outbox], tmp_path: Path):
    for width in (1, 2):
        tracked = Tracked(tracking(tmp_path), "t", {"width": width})
        reports_of(tracked, range(1, 4))
        tracked.end("running")
        tracked.wait()
    within(30, lambda: steps_of(read_runs(tmp_path)) == [1, 2, 3, 1, 2, 3])


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
    assert reports_of(tracked, range(1, 3000)) == []
    tracked.saw(report(3000, "completed"))
    took, _ = wait_of(tracked)
    assert 4.9 < took < 5 + SLACK_S
    following = Tracked(tracking(tmp_path), "u", {})
    following.saw(report(1, "completed"))
    took, _ = wait_of(following)
    assert took < 1  # one that is late already is not waited for again
    process.resume()
    assert within(120, lambda: not client._OUTBOX._courier.is_open(1) and not client._OUTBOX._courier.is_open(2))
    runs = within(30, lambda: all(r.exit_code == 0 for r in read_runs(tmp_path)) and read_runs(tmp_path))
    assert {run.name: steps_of([run]) for run in runs} == {"t": list(range(1, 3001)), "u": [1]}


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
        took, _ = wait_of(tracked)
        assert took < 5 + SLACK_S
        for process in family(client._OUTBOX):
            process.kill()
    finally:
        os.system(f"umount -l {full}")


def test_w_and_b_may_have_no_folder(outbox: Any, tmp_path: Path):
    (tmp_path / "file").write_text("")
    tracked = Tracked(tracking(tmp_path / "file"), "t", {})
    reports_of(tracked, range(1, 100))
    tracked.saw(report(100, "completed"))
    took, _ = wait_of(tracked)
    assert took < 5 + SLACK_S


@pytest.mark.parametrize("answers", [False, None], ids=["refuses", "is silent"])
def test_w_and_b_s_server_may_not_be_there(outbox: Any, tmp_path: Path, answers: bool | None):
    """A port at which nobody listens, and one at which somebody does who never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if answers is False:
            server.close()
        there = {"WANDB_MODE": "online", "WANDB_BASE_URL": address, "WANDB_API_KEY": KEY, "WANDB_INIT_TIMEOUT": "8"}
        tracked = Tracked(tracking(tmp_path, **there), "t", {})
        assert reports_of(tracked, range(1, 500)) == []
        tracked.saw(report(500, "completed"))
        took, _ = wait_of(tracked)
        assert took < 5 + SLACK_S
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
    within(60, lambda: steps_of(read_runs(tmp_path)))
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


def events_of(folder: Path) -> list[Any]:
    """The events that TensorBoard's files hold: records of length, checksum, data, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.glob("events.out.*")):
        data, position = file.read_bytes(), 0
        while position < len(data):
            length = int.from_bytes(data[position : position + 8], "little")
            found.append(Event.FromString(data[position + 12 : position + 12 + length]))
            position += 16 + length
    return found


def test_tensorboard_gets_every_report_as_points_of_curves(outbox: Any, tmp_path: Path):
    tracked = Tracked(tracking(tmp_path, ("tensorboard",)), "t", {"width": 8}, precision="fp32")
    assert reports_of(tracked, range(1, 21)) == []
    tracked.table("verdicts", ["precision", "speedup"], [["fp32", None], ["bf16-mixed", 1.5]])
    tracked.saw(report(21, "completed"))
    tracked.wait()
    assert tracked.news() is None
    within(30, lambda: not client._OUTBOX._courier.is_open(1))
    events = events_of(tmp_path / "tensorboard" / "t")
    values = [(event.step, value) for event in events for value in event.summary.value]
    losses = [(step, value.simple_value) for step, value in values if value.tag == "val_loss"]
    assert losses == [(step, pytest.approx(2 / step)) for step in range(1, 22)]
    kept = [value for _, value in values if value.tensor.string_val]
    texts = {value.tag.removesuffix("/text_summary"): value.tensor.string_val[0].decode() for value in kept}
    assert "| width | 8 |" in texts["config"]
    assert "| bf16-mixed | 1.5 |" in texts["verdicts"]
    assert "| status | completed |" in texts["end"]


def test_mlflow_gets_every_report_as_points_of_metrics(outbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    from mlflow.tracking import MlflowClient

    for steps, status in ((range(1, 6), "running"), (range(1, 9), "completed")):
        outbox()
        tracked = Tracked(tracking(tmp_path, ("mlflow",)), "t", {"width": 8}, precision="fp32")
        assert reports_of(tracked, steps) == []
        tracked.table("verdicts", ["precision", "speedup"], [["fp32", None]])
        tracked.end(status)
        tracked.wait()
        courier = client._OUTBOX._courier
        within(60, lambda: not courier.is_open(1))  # noqa: B023
        assert courier.warnings() == []
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = MlflowClient((tmp_path / "mlruns").as_uri())
    experiment = mlflow.get_experiment_by_name("project")
    (run,) = mlflow.search_runs([experiment.experiment_id])
    losses = mlflow.get_metric_history(run.info.run_id, "val_loss")
    assert [(metric.step, metric.value) for metric in losses] == [(step, 2 / step) for step in range(1, 9)]
    assert (run.data.params["width"], run.data.tags["status"], run.info.status) == ("8", "completed", "FINISHED")
