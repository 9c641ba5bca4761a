"""A project of the user's own as jobs on a head: stopped in the search, killed while pairs are timed, gone on with."""

import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lan import ROOT, Lan, wait_for, why_not
from wandb_files import read_runs

from analysis import load
from analysis.schema import ResultsError
from sweeps.engine.stages import KEPT

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(290),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]
HEAD = "head"
START = "RAY_JOB_STOP_WAIT_TIME_S=30 ray start --head --num-cpus=2 --dashboard-host=127.0.0.1 --disable-usage-stats"
NUM_TRIALS, EPOCHS = 4, list(range(1, 41))
SCRIPT = f"""
from sweeps import Confirm, Sweep, loguniform, main

sweep = Sweep(
    name="own",
    task="waiting.py:build",
    space={{"learning_rate": loguniform(1e-3, 1e-1), "batch_size": 16, "step_s": 0.01}},
    precisions=("fp32", "bf16-mixed"),
    num_trials={NUM_TRIALS},
    max_epochs={EPOCHS[-1]},
    scheduler="fifo",
    confirm=Confirm(num_seeds=2),
    route="default",
    checkpoint_every_s=0,
    wandb_project="own",
)

if __name__ == "__main__":
    main(sweep)
"""
SUBMIT = "cd ~/own && ray job submit --address http://127.0.0.1:8265 --working-dir ."


@pytest.fixture
def lan() -> Iterator[Lan]:
    """A machine on which Ray's head runs, with a project in its home that finds ampsweep installed."""
    lan = Lan([Path(sys.prefix), Path(sys.base_prefix), ROOT])
    try:
        own = lan.home(HEAD) / "own"
        own.mkdir()
        (own / "own_sweep.py").write_text(SCRIPT)
        shutil.copy(Path(__file__).with_name("waiting.py"), own)
        lan.power_on(HEAD, 10)
        type_on(lan, START)
        yield lan
    finally:
        lan.close()


def type_on(lan: Lan, command: str, **more: str) -> str:
    """Types a command on the machine; what it printed."""
    environment = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", **more}
    done = lan.run(HEAD, "bash", "-c", command, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def submit(lan: Lan, job: str, *flags: str, **variables: str) -> None:
    """Begins a job of the sweep by a name."""
    told = json.dumps({"env_vars": {"WANDB_MODE": "offline", **variables}})
    sweep = f"python own_sweep.py --storage {lan.folder}/results --run-name first {' '.join(flags)}"
    type_on(lan, f"{SUBMIT} --no-wait --submission-id {job} --runtime-env-json '{told}' -- {sweep}")


def probe_without_a_script(lan: Lan) -> None:
    """A job of the command, in a folder that it warns of."""
    flags = "--space batch_size=16 --stage probe --precisions fp32 --run-name probed"
    type_on(lan, f"{SUBMIT} --submission-id probed -- ampsweep run waiting.py:build {flags}")
    said = log(lan, "probed")
    assert "Ray's copy of the job's folder" in said
    assert said.splitlines()[-1] == "results: runs/probed"


def stop(lan: Lan, job: str) -> str:
    """Stops a job, waits until nothing of it runs any more, and gives what it has said."""
    assert "was stopped" in type_on(lan, f"ray job stop --address http://127.0.0.1:8265 {job}")
    wait_for(lambda: not at_work(lan), 30, f"the end of {at_work(lan)}")
    return log(lan, job)


def at_work(lan: Lan) -> list[str]:
    """The processes of drivers, trials, timings and trackers."""
    ours = re.compile(r"own_sweep|trainables|wandb|ray::(?!IDLE|DashboardAgent|RuntimeEnvAgent)")
    return [line for line in lan.processes(HEAD) if ours.search(line)]


def log(lan: Lan, job: str) -> str:
    """What a job's driver has said, which reads well: lines without control characters."""
    whole = type_on(lan, f"cat /tmp/ray/session_latest/logs/job-driver-{job}.log")
    text = whole.partition("\nRunning entrypoint for job ")[2].partition("\n")[2]
    assert text.startswith("sweep   "), whole
    assert not [letter for letter in text if unicodedata.category(letter) == "Cc" and letter != "\n"], repr(text)
    assert "Traceback" not in text
    return text


def results(folder: Path, table: str) -> Any:
    """A table of what has been recorded so far."""
    try:
        return getattr(load(folder), table)
    except ResultsError:
        return pd.DataFrame({"trial_id": [], "stage": [], "status": [], "ended_at": []})


def search_is_under_way(folder: Path) -> Callable[[], bool]:
    """Whether a trial of the search has ended, and another has reported."""

    def reached() -> bool:
        searched = results(folder, "trials").query("stage == 'search'")
        running = searched[searched["status"] == "running"]["trial_id"]
        reported = results(folder, "history")["trial_id"]
        return bool(searched["ended_at"].notna().any() and running.isin(reported).any())

    return reached


def figures(reports: pd.DataFrame) -> set[tuple]:
    """What tells reports apart, and what they said."""
    return set(zip(reports["trial_id"], reports["step"], reports["train_loss"], reports["val_loss"], strict=True))


def test_a_job_that_is_stopped_or_killed_goes_on_in_the_next_one(lan: Lan) -> None:
    folder = lan.folder / "results" / "first"
    submit(lan, "stopped")
    wait_for(search_is_under_way(folder), 90, "a trial's end, and another's report")
    said = stop(lan, "stopped")
    assert said.splitlines()[-1] == f"error: interrupted; {KEPT}"
    seen = results(folder, "history")

    # Nothing is left of its 30 s: SIGKILL follows at once.
    submit(lan, "killed", "--resume", RAY_JOB_STOP_WAIT_TIME_S="0")
    wait_for(lambda: any("trainables.pairs" in line for line in at_work(lan)), 90, "a pair to be timed")
    stop(lan, "killed")
    assert figures(seen) < figures(results(folder, "history"))
    seen = results(folder, "history")

    submit(lan, "last", "--resume")
    wait_for(lambda: '"ended_at"' in (folder / "sweep.json").read_text(), 120, "the end of the sweep")
    wait_for(lambda: not at_work(lan), 30, f"the end of {at_work(lan)}")
    assert log(lan, "last").splitlines()[-1] == f"results: {folder}"
    assert figures(seen) < figures(results(folder, "history"))
    check_rows(folder)
    probe_without_a_script(lan)


def check_rows(folder: Path) -> None:
    """Every trial ended, every epoch of it is there once, in the journal and with W&B, and every pair was timed."""
    found = load(folder)
    trained = found.trials.query("stage != 'probe'")
    assert list(trained["status"]) == ["completed"] * (NUM_TRIALS + 4), trained[["trial_id", "status_reason"]]
    assert found.timings["block_id"].nunique() == 2
    assert len(found.verdicts)
    written = [json.loads(line) for file in (folder / "journal").iterdir() for line in file.read_text().splitlines()]
    reports = [(row["trial_id"], row["step"]) for row in written if row["kind"] == "report"]
    assert len(reports) == len(set(reports)) == len(found.history)
    runs = read_runs(folder)
    for trial_id in trained["trial_id"]:
        reports = found.history[found.history["trial_id"] == trial_id]
        assert list(reports["epoch"]) == EPOCHS
        rows = [row for run in runs if run.name == trial_id for row in run.history]
        told = [(row["step"], row["train_loss"], row["val_loss"]) for row in rows]
        assert told == list(zip(reports["step"], reports["train_loss"], reports["val_loss"], strict=True))
    assert {run.group for run in runs} == {"first"}
    assert len({run.run_id for run in runs}) == len(trained) + 1
