"""Nodes that an autoscaler may start: by hand, and on Ray's own autoscaler with nodes that are processes here."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis import load
from sweeps import Sweep, SweepError
from sweeps.engine.autoscaler import node_types
from sweeps.engine.cluster import _resources

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
HEAD = {"CPU": 1.0}
KINDS = [{"CPU": 2.0}, {"CPU": 16.0, "GPU": 8.0}]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_workers": 3, "available_node_types": {"a": {"resources": {"CPU": 2}}}}, [{"CPU": 2}]),
        ({"available_node_types": {"a": {"resources": {"CPU": 2}, "max_workers": 0}}}, []),
        ({"max_workers": 0, "available_node_types": {"a": {"resources": {"CPU": 2}, "max_workers": 1}}}, []),
        ({"head_node_type": "a", "available_node_types": {"a": {"resources": {"CPU": 2}}}}, []),
        ({"head_node_type": "a", "available_node_types": {"a": {"resources": {}, "max_workers": 1}}}, [{}]),
        ({}, []),
    ],
)
def test_node_types_by_hand(config: dict, expected: list):
    assert node_types(config) == expected


def sweep(**asked: object) -> Sweep:
    return Sweep(name="s", task="m:f", space={}, **asked)


@pytest.mark.parametrize(
    ("asked", "per_trial", "slots", "exclusive"),
    [
        ({}, (1, 1), 8, {"num_cpus": 1, "num_gpus": 1}),
        ({"gpus_per_trial": 0, "cpus_per_trial": 2}, (2, 0), 1, {"num_cpus": 2, "num_gpus": 0}),
        ({"gpus_per_trial": 4, "cpus_per_trial": 2}, (2, 4), 2, {"num_cpus": 2, "num_gpus": 4}),
    ],
)
def test_a_trial_may_wait_for_a_node_of_the_autoscaler(asked: dict, per_trial: tuple, slots: int, exclusive: dict):
    found = _resources(sweep(**asked), [HEAD], lambda: KINDS)
    assert (found.num_cpus, found.num_gpus) == per_trial
    assert (found.slots, found.exclusive) == (slots, exclusive)
    assert "16 CPUs and 8 GPUs" in found.waits_for


def test_a_trial_waits_for_nothing_where_a_node_can_run_it():
    found = _resources(sweep(gpus_per_trial=0), [HEAD, HEAD], lambda: pytest.fail("asked for nothing"))
    assert (found.slots, found.waits_for) == (2, "")


def test_a_trial_waits_where_nobody_knows_which_nodes_may_come():
    found = _resources(sweep(gpus_per_trial=2), [HEAD], lambda: None)
    assert (found.slots, found.exclusive) == (1, {"num_cpus": 1, "num_gpus": 2})
    assert "no node has the 1 CPUs and 2 GPUs of a trial" in found.waits_for
    assert _resources(sweep(), [HEAD], lambda: None).num_gpus == 0


def test_what_neither_a_node_nor_the_autoscaler_has_is_refused():
    with pytest.raises(SweepError) as refused:
        _resources(sweep(gpus_per_trial=9), [HEAD, HEAD], lambda: KINDS)
    assert "there are: 2 x 1 CPUs and 0 GPUs;" in str(refused.value)
    assert "the autoscaler may start: 2 CPUs and 0 GPUs, 16 CPUs and 8 GPUs" in str(refused.value)


HEAD_ID = "f" * 51 + "00000"
CONFIG = {
    "cluster_name": "here",
    "max_workers": 1,
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "two": {"resources": {"CPU": 2, "object_store_memory": 80_000_000}, "node_config": {}, "max_workers": 1},
        "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
    },
    "provider": {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": HEAD_ID,
    },
    "idle_timeout_minutes": 5,
    "upscaling_speed": 1.0,
    "file_mounts_sync_continuously": False,
    **{name: {} for name in ("auth", "file_mounts", "docker")},
    **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")},
    **{name: [] for name in ("setup_commands", "head_setup_commands", "worker_setup_commands")},
    **{name: [] for name in ("head_start_ray_commands", "worker_start_ray_commands")},
}


@pytest.fixture
def autoscaling() -> Iterator[str]:
    """The address of a Ray of its own: a head with one CPU, and an autoscaler that may start a node with two."""
    import psutil

    folder = Path(tempfile.mkdtemp(prefix="scaling", dir="/tmp"))  # Ray's sockets allow for no longer path
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = CONFIG | {"provider": CONFIG["provider"] | {"gcs_address": f"127.0.0.1:{port}"}}
    (folder / "config.json").write_text(json.dumps(config))
    words = [f"--port={port}", f"--temp-dir={folder}/ray", f"--autoscaling-config={folder}/config.json"]
    words += ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1"]
    environment = os.environ | {
        "RAY_AUTH_MODE": "disabled",
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "RAY_NODE_TYPE_NAME": "ray.head.default",
    }
    environment.pop("RAY_ADDRESS", None)
    with (folder / "log").open("w") as log:
        head = psutil.Popen(
            [BIN / "ray", "start", "--head", "--block", "--include-dashboard=false", "--disable-usage-stats", *words],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(port, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        for process in [*head.children(recursive=True), head]:
            with contextlib.suppress(psutil.NoSuchProcess):  # Ray's own may end with each other
                process.kill()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while "Ray runtime started" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    socket.create_connection(("127.0.0.1", port)).close()


KNOWN = """
import sys, time, ray
from ray._private.state import state
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig
from sweeps.engine.autoscaler import startable_nodes

ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(startable_nodes())
print(ray.get(ray.remote(num_cpus=2)(startable_nodes).remote()))  # on the node that is not the head
groups = [NodeGroupConfig(resources={"CPU": 4}, max_count=-1), NodeGroupConfig(resources={"CPU": 5}, max_count=0)]
report = ClusterConfig(node_group_configs=groups).SerializeToString()
GcsClient(address=ray.get_runtime_context().gcs_address).report_cluster_config(report)
print(startable_nodes())
"""


@pytest.mark.ray
def test_a_sweep_starts_the_node_that_it_needs_and_is_refused_where_there_is_none(autoscaling: str, tmp_path: Path):
    environment = os.environ | {"RAY_ADDRESS": autoscaling, "RAY_AUTH_MODE": "disabled"}

    def command(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(map(str, words)), env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    words = [BIN / "ampsweep", "run", f"{HERE / 'tasks_that_fail.py'}:build", "--precisions", "fp32", "--num-trials", 1]
    words += ["--stage", "search", "--max-epochs", 1, "--storage", tmp_path, "--run-name", "r", "--cpus-per-trial"]
    refused = command(*words, 3)
    assert refused.returncode == 2
    assert "there are: 1 CPUs and 0 GPUs; the autoscaler may start: 2 CPUs and 0 GPUs" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
    done = command(*words, 2)
    assert done.returncode == 0, done.stderr
    assert "no node has the 2 CPUs and 0 GPUs of a trial: waits for one of 2 CPUs and 0 GPUs" in done.stdout
    assert list(load(tmp_path / "r").trials["status"]) == ["completed"] * 2
    known = command(sys.executable, "-c", KNOWN, autoscaling)
    assert known.stdout.splitlines() == [
        "[{'CPU': 2, 'object_store_memory': 80000000}]",
        "[{'CPU': 2, 'object_store_memory': 80000000}]",
        "[{'CPU': 4}]",
    ], known.stderr
