"""A Ray that a sweep starts for itself, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.ray
def test_a_ray_of_its_own_has_no_processes_that_a_sweep_does_not_need_and_waits_for_no_node(ray_address: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, check=False)
    *lines, refused = done.stdout.splitlines()
    assert lines == ["['gcs_server', 'raylet']", "[True, True]", "7", "True"], done.stderr
    assert refused.startswith("cpus_per_trial, gpus_per_trial: must fit on one node")
