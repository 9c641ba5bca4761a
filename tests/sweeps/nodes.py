"""Simulated nodes: those of ``ray.cluster_utils.Cluster``, each with a host name and a CPU model of its own.

All are processes of this machine. Namespaces of Linux make a node's own what its processes take for the host's name
and what they read in /proc/cpuinfo. GPUs are numbers that Ray counts, an accelerator the name of one that is not here.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ALONE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts"]
"""Runs a command whose processes all end with it."""

_NEWNS, _NEWUTS, _BIND, _PRIVATE = 0x20000, 0x4000000, 4096, 0x4000 | 0x40000


def why_not() -> str | None:
    """Why there can be no such nodes here, in words; ``None`` where there can."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        return "namespaces need root on Linux"
    tried = subprocess.run([*ALONE, "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"this container allows no namespaces ({tried.stderr.strip()})"


def run_alone(module: str, *words: object, timeout: float) -> "subprocess.CompletedProcess[str]":
    """Runs one of the tests' modules with a Ray of its own; nothing of it is left afterwards."""
    folder = tempfile.mkdtemp(prefix="nodes", dir="/tmp")  # Ray's sockets allow for no longer path
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    command = [*ALONE, sys.executable, "-m", module, *map(str, words)]
    try:
        return subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Nodes:
    """A head that runs no trials, and the nodes that were added."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._folder = Path(os.environ["RAY_TMPDIR"])
        # A node that is gone is known to be within a second.
        health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 500}
        head: dict[str, Any] = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 * 2**20}
        head["_system_config"] = health | {"health_check_failure_threshold": 2}
        # Without its handlers, which only the main thread may set: all ends with the namespace.
        self.cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        os.environ["RAY_ADDRESS"] = self.cluster.address

    def add(self, name: str, num_cpus: int, num_gpus: int = 0, accelerator: str = "", cpu: str = "") -> Any:
        """Adds a node.

        Args:
            name: of its host.
            num_cpus, num_gpus: that Ray counts.
            accelerator: as Ray would name its GPUs.
            cpu: model of its CPU; else that of the machine.
        """
        more = {"resources": {f"accelerator_type:{accelerator}": 1}} if accelerator else {}
        started: list[Any] = []

        def start() -> None:
            _enter_namespaces(name, self._cpuinfo(cpu) if cpu else None)
            started.append(
                self.cluster.add_node(
                    num_cpus=num_cpus, num_gpus=num_gpus, object_store_memory=80 * 2**20, node_name=name, **more
                )
            )

        thread = threading.Thread(target=start)  # namespaces are a thread's, and go to what it starts
        thread.start()
        thread.join()
        return started[0]

    def _cpuinfo(self, cpu: str) -> Path:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        file = self._folder / f"{cpu.replace(' ', '-')}.cpuinfo"
        file.write_text("\n".join(f"model name\t: {cpu}" if line.startswith("model name") else line for line in lines))
        return file


def _enter_namespaces(name: str, cpuinfo: Path | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def call(function: str, *args: object) -> None:
        if getattr(libc, function)(*args):
            raise OSError(ctypes.get_errno(), function)

    call("unshare", _NEWNS | _NEWUTS)
    call("sethostname", name.encode(), len(name))
    call("mount", b"none", b"/", None, _PRIVATE, None)
    if cpuinfo is not None:
        call("mount", str(cpuinfo).encode(), b"/proc/cpuinfo", None, _BIND, None)


def own_node() -> dict[str, Any]:
    """What Ray says of the node that this process runs on."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    (node,) = (each for each in ray.nodes() if each["NodeID"] == here)
    return dict(node)


def accelerator_here() -> str:
    """Ray's name of this node's GPUs, which stands for what PyTorch would call them."""
    names = [name.partition(":")[2] for name in own_node()["Resources"] if name.startswith("accelerator_type:")]
    return names[0]


def say(**facts: object) -> None:
    """Prints facts for the test that runs this process."""
    print(json.dumps(facts), flush=True)
