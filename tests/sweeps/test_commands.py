"""The commands as a user types them: processes, exit codes, what they print."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import load
from sweeps import Sweep, run
from sweeps.engine.cli import ampsweep
from sweeps.engine.journal import Journal, write_declaration

ROOT = Path(__file__).parent.parent.parent
AMPSWEEP = str(Path(sys.executable).parent / "ampsweep")


def command(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)


def python(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return command(sys.executable, *words, cwd=cwd)


def test_a_name_that_a_terminal_cannot_show_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    known = {"schema": 1, "metric": "val_loss", "mode": "min", "precisions": [], "baselines": []}
    with Journal(tmp_path) as journal:
        journal.write("trial", {"trial_id": "a", "stage": "search", "status": "errored", "precision": "fp32"})
        write_declaration(tmp_path, known | {"run_name": "größe"})
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(SystemExit) as ended:
        ampsweep(["report", str(tmp_path)])
    assert ended.value.code == 0
    terminal.seek(0)
    assert "gr??e, val_loss" in terminal.read()


@pytest.mark.parametrize("script", [("-m", "sweeps.digits"), ("sweeps/digits.py",)])
def test_help_explains_every_field(script: tuple[str, ...]):
    import dataclasses

    from sweeps import Confirm, Sweep

    done = python(*script, "--help")
    assert done.returncode == 0
    fields = [field.name for field in dataclasses.fields(Sweep) if field.name != "confirm"]
    fields += [f"confirm_{field.name}" for field in dataclasses.fields(Confirm)]
    for name in fields:
        assert f"--{name.replace('_', '-')}" in done.stdout


def test_help_imports_neither_torch_nor_ray():
    program = (
        "import runpy, sys\n"
        "sys.argv = ['digits', '--help']\n"
        "try: runpy.run_module('sweeps.digits', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print({'torch', 'ray', 'pandas'} & set(sys.modules))\n"
    )
    assert python("-c", program).stdout.endswith("set()\n")


def test_dry_run_lists_trials_and_writes_nothing(tmp_path: Path):
    done = python("-m", "sweeps.digits", "--dry-run", "--num-trials", "4", "--storage", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "4 trials of 2 configurations, at most 12 epochs each" in done.stdout
    assert "search-0001-fp32" in done.stdout or "search-0000-fp32" in done.stdout
    assert not list(tmp_path.iterdir())


def test_dry_run_of_tpe_says_what_is_known(tmp_path: Path):
    flags = ["--searcher", "tpe", "--num-trials", "6", "--precisions", "fp32,bf16-mixed", "--storage", str(tmp_path)]
    done = python("-m", "sweeps.digits", "--dry-run", *flags)
    assert done.returncode == 0, done.stderr
    assert "at most 6 trials in fp32, bf16-mixed, at most 12 epochs each" in done.stdout
    assert "searcher tpe" in done.stdout
    assert "search-0000-fp32  learning_rate=" in done.stdout
    assert "5 whose configurations follow from results" in done.stdout
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())


def test_commands_are_listed():
    assert all(name in command(AMPSWEEP, "--help").stdout for name in ("run", "probe", "report", "export", "compare"))


@pytest.mark.ray
def test_probe_tells_of_every_precision_of_the_ladder(ray_address: str, tmp_path: Path):
    from trainables.ladder import LADDER

    words = ["trainables.tasks.digits:build", "--space", "width=8", "--storage", str(tmp_path), "--run-name", "probe"]
    done = command(AMPSWEEP, "probe", *words)
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("\nProbe\n")[1]
    assert all(name in table for name in LADDER)
    rows = load(tmp_path / "probe").trials.set_index("precision")
    assert set(rows.index) == set(LADDER)
    assert set(rows["stage"]) == {"probe"}
    left_out = rows[rows["status"] != "completed"]
    assert left_out["status_reason"].notna().all()
    assert rows.loc["fp32", "step_ms"] > 0


@pytest.mark.ray
@pytest.mark.parametrize(("fault", "end"), [("kill in bf16", "lost"), ("kill once in bf16", "completed")])
def test_a_precision_that_takes_the_probe_s_process_down_twice_is_left_out_and_the_others_go_on(
    ray_address: str, tmp_path: Path, fault: str, end: str
):
    task = Path(__file__).parent / "tasks_that_fail.py"
    sweep = Sweep(
        name="down",
        task=f"{task}:build",
        space={"fault": fault, "marker": str(tmp_path / "killed")},
        precisions=("bf16-mixed", "fp32", "bf16-true"),
        num_trials=3,
        max_epochs=1,
        cpus_per_trial=1.5,
        stage="search",
        storage=str(tmp_path),
        run_name="down",
    )
    trials = run(sweep).trials.groupby("stage")
    probed = trials.get_group("probe").set_index("precision")
    assert dict(probed["status"]) == {"fp32": "completed", "bf16-mixed": end, "bf16-true": "completed"}
    if end == "lost":
        assert "process or node went away" in probed.loc["bf16-mixed", "status_reason"]
    searched = trials.get_group("search")
    assert set(searched["status"]) == {"completed"}
    assert ("bf16-mixed" in set(searched["precision"])) is (end == "completed")


@pytest.mark.ray
def test_a_search_in_which_nothing_completes_exits_with_1(ray_address: str, tmp_path: Path):
    task = Path(__file__).parent / "tasks_that_fail.py"
    words = ["--space", "fault=diverge", "--precisions", "fp32,bf16-mixed", "--num-trials", "2"]
    words += ["--cpus-per-trial", "1.5", "--storage", str(tmp_path)]
    done = command(AMPSWEEP, "run", f"{task}:build", *words, "--run-name", "diverged")
    assert done.returncode == 1
    assert re.fullmatch(r"error: no trial completed: 2 of 2 diverged \(.*loss was not finite.*\)\n", done.stderr)
    assert set(load(tmp_path / "diverged").trials.query("stage == 'search'")["status"]) == {"diverged"}


@pytest.mark.ray
def test_a_confirmation_without_a_pair_exits_with_1(
    ray_address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    task = Path(__file__).parent / "tasks_that_fail.py"
    words = ["--space", "fault=raise in confirm", "--precisions", "fp32,bf16-mixed", "--num-trials", "2"]
    words += ["--max-epochs", "1", "--confirm-num-seeds", "1", "--cpus-per-trial", "1.5"]
    words += ["--storage", str(tmp_path), "--run-name", "unpaired"]
    with pytest.raises(SystemExit) as ended:
        ampsweep(["run", f"{task}:build", *words])
    assert ended.value.code == 1
    error = capsys.readouterr().err
    reason = r"RuntimeError: planted in confirm \(tasks_that_fail\.py:\d+\)"
    assert re.fullmatch(rf"error: confirm gave no pair: 2 of 2 runs errored \({reason}\)\n", error)
    trials = load(tmp_path / "unpaired").trials
    assert set(trials.query("stage == 'search'")["status"]) <= {"completed", "pruned"}


@pytest.mark.quiet
@pytest.mark.ray
def test_ray_ending_a_trial_for_memory_is_a_row_and_the_others_go_on(tmp_path: Path):
    """Ray's own memory monitor, with a threshold a few GiB above what the machine uses now; a Ray of its own."""
    (tmp_path / "hog.py").write_text(HOG)
    (tmp_path / "points.jsonl").write_text('{"hog": 0}\n{"hog": 1}\n{"hog": 2}\n{"hog": 3}\n')
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_memory_usage_threshold": f"{_threshold():.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    words = [AMPSWEEP, "run", "hog.py:build", "--points", "points.jsonl", "--precisions", "fp32", "--stage", "search"]
    done = subprocess.run(
        [*words, "--max-epochs", "1", "--run-name", "hog"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    searched = load(tmp_path / "runs" / "hog").trials.query("stage == 'search'").set_index("config/hog")
    assert dict(searched["status"]) == {0: "completed", 1: "out_of_memory", 2: "completed", 3: "completed"}
    assert "Ray ended the process" in searched.loc[1, "status_reason"]


HOG = """
import time
import torch
from torch.utils.data import TensorDataset
from trainables import Task

def build(config):
    if config["hog"] == 1:
        held = []
        for _ in range(40):  # 10 GiB at most, in pieces that leave the monitor time to see them
            held.append(torch.ones(2**26))
            time.sleep(0.1)
        time.sleep(20)
    inputs, labels = torch.randn(64, 8), torch.zeros(64, dtype=torch.int64)
    data = TensorDataset(inputs, labels)
    return Task(torch.nn.Linear(8, 2), data, data)
"""


def _threshold(spare_bytes: float = 3.5e9) -> float:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    known = {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines}
    return (known["MemTotal"] - known["MemAvailable"] + spare_bytes) / known["MemTotal"]
