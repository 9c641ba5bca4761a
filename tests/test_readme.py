"""The README keeps its word: every command in it runs, every link leads somewhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import load
from sweeps import Sweep
from sweeps.engine import stages

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)

EXIT_CODES = {"ampsweep report runs/quick --require-pass bf16-mixed": {0, 3}}
"""Commands whose exit code depends on the machine; all others must exit with 0."""


def test_commands_were_found():
    assert len(COMMANDS) >= 10
    assert len(PYTHON) == 6


def test_the_environment_is_entered_before_the_first_command_that_needs_it():
    assert 0 < README.index("`source .venv/bin/activate`") < README.index("```bash\nampsweep")


def test_wandb_takes_the_flags_with_which_kept_runs_are_sent():
    from wandb.cli.cli import sync

    (typed,) = re.findall(r"`wandb (sync runs/.*?)`", README)
    known = {name for parameter in sync.params for name in parameter.opts}
    assert {word for word in shlex.split(typed) if word.startswith("--")} <= known


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_commands_are_what_the_makefile_runs(command: str):
    """Make itself is run by whoever runs these tests; here, that its recipe is one that the tests run elsewhere."""
    plan = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    recipes = {
        "make demo": "-m sweeps.digits",
        "make test": "-m pytest",
        "make test-cluster": "-m cluster",
        "make lint": "mypy",
        "make coverage": ".ci/check_coverage.py",
        "make bench": "-m benchmarks.demo",
    }
    assert recipes[command] in plan


def shortened(command: str) -> list[str]:
    """The words of a command, with flags that make it small or leave out what other tests run to its end."""
    words = shlex.split(command)
    if words[:2] == ["ampsweep", "run"]:
        words += shlex.split("--num-trials 4 --max-epochs 1 --confirm-num-seeds 1")
    if words[:2] == ["ampsweep", "compare"]:
        words += shlex.split("--rounds 2 --num-threads 1")
    if "--run-name" in words:
        words += shlex.split("--precisions fp32,bf16-mixed --route default --cpus-per-trial 1.5")
    if "--confirm-num-seeds" in words and "--run-name" in words:
        words[words.index("--confirm-num-seeds") + 1] = "2" if "--resume" in words else "1"
    if "--wandb-project" in words:  # tests/sweeps/test_tracking.py
        words += ["--stage", "search"]
    # tests/sweeps/test_unsearched.py and test_text_classification.py
    if "sweeps.amp_speedup" in words or "sweeps.text_classification" in words:
        words += ["--dry-run"]
    return words


@pytest.mark.ray
def test_every_other_command_runs_in_its_order(
    ray_address: str, tmp_path: Path, encoder_folder: Path, text_files: Path
):
    shutil.copytree(encoder_folder, text_files / "FOLDER")
    for source in PYTHON:
        name = re.match(r"# (\w+\.py)\n", source)
        if name:
            (tmp_path / name.group(1)).write_text(source)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in COMMANDS:
        if command.startswith("make "):
            continue
        words = shortened(command)
        done = subprocess.run(
            words,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "PATH": path},
            check=False,
        )
        assert done.returncode in EXIT_CODES.get(command, {0}), f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, command
    check_own_task(tmp_path)
    for program in (source for source in PYTHON if "runs/quick" in source or "load_exported" in source):
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=60)


def check_own_task(folder: Path) -> None:
    """The README's own task lies outside the project, and gives a verdict and the three DataFrames."""
    results = load(folder / "runs" / "mine")
    assert set(results.trials["stage"]) == {"probe", "search", "confirm"}
    assert set(results.trials["config/hidden"].dropna()) <= {128, 256}
    assert results.trials.query("stage != 'probe'")["status"].isin(["completed", "pruned"]).all()
    assert len(results.history) > 0
    assert set(results.verdicts["verdict"]) <= {"PASS", "FAIL", "UNDERPOWERED", "INVALID"}
    assert results.sweeps[0]["metric"] == "val_accuracy"
    words = [str(Path(sys.executable).parent / "ampsweep"), "report", "runs/mine"]
    report = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    assert results.verdicts["verdict"].iloc[0] in report.stdout


def test_the_notebook_s_call_comes_as_far_as_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A search like it runs to its end in tests/sweeps/test_notebook.py."""

    def started(sweep: Sweep) -> None:
        raise InterruptedError(sweep.name)

    monkeypatch.setattr(stages, "connected", started)
    monkeypatch.chdir(tmp_path)
    (program,) = (source for source in PYTHON if "tune_model" in source)
    with pytest.raises(InterruptedError, match="tune_model"):
        exec(program, {"__name__": "__main__"})
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "task.pkl").stat().st_size > 1024 * 16 * 4


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(link: str):
    assert link.startswith("https://") or (ROOT / link).exists()
