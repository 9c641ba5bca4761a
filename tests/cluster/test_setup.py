"""What nodes run before Ray starts on them: ``clusters/setup.sh``, in a home of its own.

Those that make virtual environments are left to ``make test-cluster``.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_lint import ROOT


@pytest.mark.parametrize("name", ["clusters/setup.sh", "clusters/stop_workers.sh", "tests/cluster/machine.sh"])
def test_scripts_parse(name: str):
    subprocess.run(["bash", "-n", ROOT / name], check=True)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A home and a project whose lock names a file that is not there."""
    (tmp_path / ".ray").mkdir(mode=0o755)
    (tmp_path / ".ray" / "auth_token").write_text("x")
    (tmp_path / "project" / "clusters").mkdir(parents=True)
    shutil.copy(ROOT / "clusters" / "setup.sh", tmp_path / "project" / "clusters")
    (tmp_path / "project" / "clusters" / "requirements.lock").write_text("./missing.whl --hash=sha256:" + "0" * 64)
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "python3.12").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    return tmp_path


def set_up(node: Path) -> "subprocess.CompletedProcess[str]":
    environment = {"HOME": str(node), "PATH": f"{node / 'python'}:/usr/bin:/bin"}
    words = ["bash", str(node / "project" / "clusters" / "setup.sh")]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.cluster
def test_a_node_whose_set_up_failed_is_set_up_again(node: Path):
    for _ in range(2):  # what the first left behind is not taken for a finished one
        done = set_up(node)
        assert (done.returncode, "missing.whl" in done.stderr) == (1, True), done.stderr
        assert (node / "ampsweep-venv.unfinished").exists()
        assert not (node / ".bashrc").exists()


@pytest.fixture
def without_venv(node: Path) -> Path:
    """A node whose Python lacks ``venv``, and whose ``apt-get`` is played: it would change the machine of the tests."""
    real = (node / "python" / "python3.12").resolve()
    (node / "python" / "python3.12").unlink()
    written = {
        "python3.12": f'[ "$1" != -c ] || [ -e {node}/installed ] && exec {real} "$@"\nexit 1\n',
        "sudo": 'exec env "$@"\n',
        "sleep": "",
        "apt-get": f"""case "$*" in
  *install*python3.12-venv*) touch {node}/installed ;;
  *update*) echo x >>{node}/updates; [ "$(wc -l <{node}/updates)" = 3 ] || {{ cat {node}/trouble >&2; exit 100; }} ;;
esac
""",
    }
    for name, text in written.items():
        (node / "python" / name).write_text(f"#!/bin/bash\n{text}")
        (node / "python" / name).chmod(0o755)
    return node


@pytest.mark.cluster
def test_a_node_whose_package_lists_are_locked_waits_for_them(without_venv: Path):
    """As is one that has just booted."""
    locked = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1 (apt-get)"
    (without_venv / "trouble").write_text(locked)
    done = set_up(without_venv)
    assert (without_venv / "updates").read_text().split() == ["x"] * 3
    assert "missing.whl" in done.stderr  # it came as far as the lock


def test_a_node_that_can_install_nothing_says_so_at_once(without_venv: Path):
    (without_venv / "trouble").write_text("E: Unable to locate package python3.12-venv")
    done = set_up(without_venv)
    assert (done.returncode, done.stderr.strip()) == (1, "E: Unable to locate package python3.12-venv")
    assert (without_venv / "updates").read_text().split() == ["x"]


def test_a_virtual_environment_that_is_there_is_used_and_the_token_is_the_user_s_alone(node: Path):
    (node / "ampsweep-venv").mkdir()
    for _ in range(2):
        assert set_up(node).returncode == 0
        assert (node / ".bashrc").read_text().count("RAY_AUTH_MODE=token") == 1
    assert list((node / "ampsweep-venv").iterdir()) == []
    modes = [path.stat().st_mode & 0o777 for path in (node / ".ray", node / ".ray" / "auth_token")]
    assert modes == [0o700, 0o600]
