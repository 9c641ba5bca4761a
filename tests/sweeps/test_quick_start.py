"""A Ray that a sweep starts for itself, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray._private.authentication import authentication_token_setup
from ray.tune.trainable import trainable

from sweeps.engine.quick_start import quick_start
from trainables.adapters.ray_tune import TuneTrial

ROOT = Path(__file__).parents[2]
CODE = """
import os
import ray
from ray._private.node import Node
from ray._private import services
from sweeps import Sweep, SweepError
from sweeps.engine.cluster import connected, ray_session

def patched():
    return [Node.start_api_server, Node.start_monitor, Node.start_log_monitor, services.get_node, services.ConsolePopen]

before = patched()
with ray_session("local"):
    processes = ray._private.worker._global_node.all_processes
    print(sorted(processes))
    print([os.getsid(info.process.pid) == info.process.pid for (info,) in processes.values()])
    print(ray.get(ray.remote(num_cpus=1)(lambda: 7).remote()))
print(before == patched())
try:
    with connected(Sweep("s", "m:f", {}, address="local", cpus_per_trial=4096)):
        print("waits")
except SweepError as error:
    print(error)
"""


def test_a_home_folder_that_cannot_be_written_keeps_no_ray_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/nonexistent")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "before")
    save = authentication_token_setup.generate_and_save_token
    with quick_start():
        authentication_token_setup.generate_and_save_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) > 30
    assert authentication_token_setup.generate_and_save_token is save


def test_workers_leave_nothing_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainable, "DEFAULT_STORAGE_PATH", str(tmp_path / "ray_results"))
    monkeypatch.setattr(TuneTrial, "setup", lambda self, config: None)
    TuneTrial()
    assert not any(tmp_path.iterdir())


@pytest.mark.ray
def test_a_ray_of_its_own_has_no_processes_that_a_sweep_does_not_need_and_waits_for_no_node(ray_address: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, check=False)
    *lines, refused = done.stdout.splitlines()
    assert lines == ["['gcs_server', 'raylet']", "[True, True]", "7", "True"], done.stderr
    assert refused.startswith("cpus_per_trial, gpus_per_trial: must fit on one node")
