"""Bad input ends in one line that names field, condition, value and remedy, exit code 2, and no trace.

The rows stand in ``bad_input.py``; where a row can be known before Ray starts, it is.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from bad_input import COMMANDS, FILES, ON_RAY, SCRIPT

from sweeps import main
from sweeps.digits import sweep
from sweeps.engine import stages
from sweeps.engine.cli import ampsweep

ROOT = Path(__file__).parents[2]
NOBODY = "127.0.0.1:9"
"""An address at which nothing listens: who looks for a Ray there says so."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with all that the rows speak of; what a command changes in the process is undone."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules, on_sigterm = set(sys.modules), signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, on_sigterm)
    for name in {"package", "package.inner"} & (set(sys.modules) - modules):
        del sys.modules[name]


def contents(place: Path) -> set[Path]:
    return {path for path in place.rglob("*") if "__pycache__" not in path.parts}


def words_of(typed: str) -> list[str]:
    return [word[1:].encode().decode("unicode_escape") if word[:1] == "$" else word for word in shlex.split(typed)]


def check(error: str, field: str, value: str, remedy: str) -> None:
    """The line names the field, a condition, the value and the remedy, each in its place."""
    assert error.count("\n") == 1
    matched = re.fullmatch(rf"error: {re.escape(field)}: (.+), got (.+?); (.+)\n", error)
    assert matched, error
    assert matched[2].startswith(value) or f", got {value}" in error, error
    assert remedy in matched[3], error


def refused(command: Callable[[list[str]], None], typed: str, place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command writes to standard error; it leaves no trace."""
    before = contents(place)
    with pytest.raises(SystemExit) as ended:
        command(words_of(typed))
    assert ended.value.code == 2
    assert contents(place) == before
    return capsys.readouterr().err


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*anything: object) -> None:
        pytest.fail("Ray was started")

    monkeypatch.setattr(stages, "connected", start)


@pytest.mark.parametrize(("typed", "field", "value", "remedy"), SCRIPT, ids=[row[0] for row in SCRIPT])
def test_of_a_script(
    typed: str, field: str, value: str, remedy: str, place: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    check(refused(lambda words: main(sweep, words), typed, place, capsys), field, value, remedy)


@pytest.mark.parametrize(("typed", "field", "value", "remedy"), COMMANDS, ids=[row[0] for row in COMMANDS])
def test_of_a_command(
    typed: str, field: str, value: str, remedy: str, place: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    check(refused(ampsweep, typed, place, capsys), field, value, remedy)


@pytest.mark.parametrize(
    ("words", "field", "value", "remedy"),
    [
        (["-m", "sweeps.digits", "--precisions", "bf17-mixed"], "--precisions", "'bf17-mixed'", "did you mean"),
        ([str(ROOT / "sweeps/digits.py"), "--points", "line.jsonl"], "--points, line 3", "'{", "write {"),
        (["-m", "sweeps.digits", "--run-name", "used"], "--run-name", "'used'", "--resume"),
        (["-m", "sweeps.digits"], "RAY_ADDRESS", f"'{NOBODY}'", "start one, or remove RAY_ADDRESS"),
        (["-m", "sweeps.digits", "--address", NOBODY], "--address", f"'{NOBODY}'", "start one"),
    ],
    ids=lambda words: words[-1] if isinstance(words, list) else None,
)
def test_of_a_process(words: Sequence[str], field: str, value: str, remedy: str, place: Path) -> None:
    before = contents(place)
    environment = os.environ | {"RAY_ADDRESS": NOBODY, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2, done.stderr
    check(done.stderr, field, value, remedy)
    assert contents(place) == before


@pytest.fixture(scope="module")
def worker(ray_address: str) -> Iterator[Any]:
    """Probes for all rows, each of which would start a worker of its own for it."""
    import ray

    from trainables.adapters.ray_tune import TuneTrial

    actor = ray.remote(TuneTrial).options(num_cpus=1).remote()
    yield actor
    ray.kill(actor)


@pytest.fixture
def started(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeps.engine.workers import Workers

    monkeypatch.setattr(Workers, "start", lambda *_: None)
    monkeypatch.setattr(Workers, "first", lambda *_: worker)


@pytest.mark.ray
@pytest.mark.parametrize(("typed", "field", "value", "remedy"), ON_RAY, ids=[row[0] for row in ON_RAY])
def test_that_only_the_probe_can_tell(
    typed: str, field: str, value: str, remedy: str, place: Path, started: None, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = "--precisions fp32 --stage search --num-trials 1 --storage new/storage"
    check(refused(ampsweep, f"run {typed} {flags}", place, capsys), field, value, remedy)
