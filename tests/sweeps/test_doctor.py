"""``ampsweep doctor`` as a user types it: what it prints, its exit codes, and a real cluster."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.engine.doctor import cluster as doctor_cluster
from sweeps.engine.doctor.cluster import look_at_cluster, measure_cluster
from sweeps.engine.doctor.facts import Unanswered
from sweeps.engine.doctor.places import look_at_storage
from trainables.rates import FORMATS

AMPSWEEP = str(Path(sys.executable).parent / "ampsweep")
KEY = "0123456789abcdef0123456789abcdef01234567"

Doctor = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """Runs the command in an empty folder, without any login of this machine's, and with other variables."""
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "netrc").write_text("")
    names = ("RAY_ADDRESS", "WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL")
    bare = {name: value for name, value in os.environ.items() if name not in names}

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**bare, "NETRC": str(tmp_path / "netrc"), "RAY_TMPDIR": str(tmp_path), **variables}
        command = [AMPSWEEP, "doctor", *words]
        return subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, timeout=240, check=False
        )

    return run


def test_the_report_of_this_machine(doctor: Doctor, tmp_path: Path):
    import torch

    done = doctor(WANDB_API_KEY=KEY, COLUMNS="300")  # no path is folded
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(name in done.stdout for name in FORMATS)
    assert torch.__version__ in done.stdout
    assert str(tmp_path / "work" / "runs") in done.stdout
    assert "none running; a sweep starts one here" in done.stdout
    assert "key from WANDB_API_KEY" in done.stdout
    assert KEY not in done.stdout + done.stderr
    assert done.stdout.endswith("Nothing stops a sweep here.\n")
    assert not list((tmp_path / "work").iterdir())
    assert not (tmp_path / "ray").exists()  # no Ray was started


def test_json_holds_the_same_and_what_stops_a_sweep_is_exit_code_1(doctor: Doctor):
    done = doctor("--json", "--storage", "/proc/none", RAY_ADDRESS="127.0.0.1:9")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    fatal = [finding for finding in report["findings"] if finding["fatal"]]
    assert {finding["area"] for finding in fatal} == {"Ray", "storage"}
    assert [finding["problem"] for finding in fatal] == report["stops"]
    by_area = {finding["area"]: finding for finding in fatal}
    assert by_area["storage"]["remedy"] == "name a folder that can be written: --storage DIR"
    assert "/proc/none" in by_area["storage"]["problem"]
    assert "RAY_ADDRESS" in by_area["Ray"]["problem"]
    assert {finding["area"] for finding in report["findings"]} >= {"machine", "versions", "Ray", "storage", "W&B"}
    assert {rate["format"] for rate in report["rates"]} == set(FORMATS)
    fp32 = next(rate for rate in report["rates"] if rate["format"] == "fp32")
    assert (fp32["ran"], fp32["against_fp32"]) == ("float32", 1.0)
    assert fp32["best_flops_per_s"] > 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--address", "127.0.0.1:9"], "address: must be a Ray cluster that answers"),
        (["--adress", "auto"], "did you mean '--address'?"),
        (["--storage", ""], "--storage: must be a string that is not empty"),
        (["--storage"], "--storage"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(doctor: Doctor, words: list[str], expected: str):
    done = doctor(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert expected in done.stderr


def test_help_is_there_at_once(doctor: Doctor):
    assert "doctor" in subprocess.run([AMPSWEEP, "--help"], capture_output=True, text=True, check=True).stdout
    program = (
        "import sys\nfrom sweeps.engine.cli import ampsweep\n"
        "try: ampsweep(['doctor', '--help'])\n"
        "except SystemExit as end: print(end.code, {'torch', 'ray', 'pandas'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("0 set()\n")
    assert "--storage" in done.stdout


@pytest.mark.ray
def test_a_cluster_is_looked_at_and_measured_by_its_nodes(
    ray_address: str, doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import ray

    done = doctor("--json", "--address", ray_address)
    report = json.loads(done.stdout)
    assert done.returncode == 0, report["stops"]
    (node,) = {name for finding in report["findings"] for name in finding["nodes"]}
    of_ray = {finding["name"]: finding for finding in report["findings"] if finding["area"] == "Ray"}
    assert of_ray["cluster"]["value"].startswith(f"{ray_address}, 1 node, 2 CPUs")
    assert of_ray["node"]["value"].startswith("2 CPUs")
    assert not [finding for finding in report["findings"] if finding["name"] == "shared"]  # it sees the folder
    measured = [rate for rate in report["rates"] if rate["format"] == "fp32"]
    assert {(rate["node"], rate["num_threads"]) for rate in measured} == {(node, 2), (node, 1)}

    # A device that others hold is not waited for without end, and a node on which ampsweep does not run says so.
    @ray.remote(num_cpus=2)
    def hold() -> None:
        import time

        time.sleep(600)

    storage = look_at_storage(str(tmp_path))
    held = hold.remote()
    try:
        monkeypatch.setattr(doctor_cluster, "DEVICE_WAIT_S", 2.0)
        busy, unseen = look_at_cluster(ray_address, storage)
        assert unseen == ()
        (result,) = measure_cluster(busy)
        assert result.error == Unanswered("no answer within 2 s", timed_out=True)
    finally:
        ray.cancel(held, force=True)

    def not_installed(mark: object) -> None:
        raise ModuleNotFoundError("No module named 'trainables'")

    monkeypatch.setattr(doctor_cluster, "look_at_node", not_installed)
    without, _ = look_at_cluster(ray_address, storage)
    assert without.nodes[0].error == Unanswered("ModuleNotFoundError: No module named 'trainables'")
    assert measure_cluster(without) == []
