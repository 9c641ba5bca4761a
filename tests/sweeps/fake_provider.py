"""Ray's own autoscaler, whose nodes are processes of this machine: its fake provider, as one from outside of Ray."""

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
from typing import Any

BIN = Path(sys.executable).parent
HEAD_ID = "f" * 51 + "00000"
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 500}
"""With three failures, a node that is gone is known to be within two seconds."""


def configuration(port: int, max_workers: int, idle_minutes: float, head_cpus: int) -> dict[str, Any]:
    """What ``ray up`` would hand to the head: the head, and up to so many nodes with two CPUs."""
    return {
        "cluster_name": "here",
        "max_workers": max_workers,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "two": {
                "resources": {"CPU": 2, "object_store_memory": 80_000_000},
                "node_config": {},
                "max_workers": max_workers,
            },
            "ray.head.default": {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0},
        },
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": HEAD_ID,
            "gcs_address": f"127.0.0.1:{port}",
        },
        "idle_timeout_minutes": idle_minutes,
        "upscaling_speed": 1.0,
        "file_mounts_sync_continuously": False,
        **{name: {} for name in ("auth", "file_mounts", "docker")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")},
        **{name: [] for name in ("setup_commands", "head_setup_commands", "worker_setup_commands")},
        **{name: [] for name in ("head_start_ray_commands", "worker_start_ray_commands")},
    }


@contextlib.contextmanager
def autoscaling(max_workers: int, idle_minutes: float, head_cpus: int) -> Iterator[str]:
    """The address of a Ray of its own: a head, and an autoscaler that may start nodes with two CPUs.

    Args:
        max_workers: nodes at once.
        idle_minutes: after which a node goes that nobody uses.
        head_cpus: of the head.
    """
    import psutil

    folder = Path(tempfile.mkdtemp(prefix="scaling", dir="/tmp"))  # Ray's sockets allow for no longer path
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config.json").write_text(json.dumps(configuration(port, max_workers, idle_minutes, head_cpus)))
    words = [f"--port={port}", f"--temp-dir={folder}/ray", f"--autoscaling-config={folder}/config.json"]
    words += [
        f"--num-cpus={head_cpus}",
        "--num-gpus=0",
        "--object-store-memory=100000000",
        "--node-ip-address=127.0.0.1",
    ]
    words += ["--system-config", json.dumps(HEALTH | {"health_check_failure_threshold": 3})]
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
