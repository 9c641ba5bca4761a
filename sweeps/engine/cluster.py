"""The Ray cluster that a sweep runs on: a running one, or one started here for as long as the sweep lasts."""

import logging
import math
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.engine.sweep import Sweep
from sweeps.search.checks import refuse


@dataclass(frozen=True)
class Resources:
    """What each trial gets, and how many of them run at once.

    Args:
        num_cpus: of each trial.
        num_gpus: of each trial.
        slots: trials that the cluster runs at once, as it stands.
        exclusive_cpus: all CPUs of the smallest node that can run a trial: what a timing reserves.
    """

    num_cpus: float
    num_gpus: float
    slots: int
    exclusive_cpus: float

    @property
    def per_trial(self) -> dict[str, float]:
        """As ``num_cpus`` and ``num_gpus`` of Ray's remote options."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}

    @property
    def exclusive(self) -> dict[str, float]:
        """Options that reserve a device for one process: whole GPUs, or all CPUs of a node."""
        if self.num_gpus:
            return {"num_cpus": self.num_cpus, "num_gpus": math.ceil(self.num_gpus)}
        return {"num_cpus": self.exclusive_cpus, "num_gpus": 0}


@contextmanager
def connected(sweep: Sweep) -> Iterator[Resources]:
    """Connects to the sweep's cluster, or starts Ray on this machine and stops it afterwards.

    Raises:
        SweepError: the cluster cannot be reached, or no node of it has what a trial asks for.
    """
    import ray

    with ray_session(sweep.address):
        yield _resources(sweep, [node["Resources"] for node in ray.nodes() if node["Alive"]])


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """Connects to a cluster, or starts Ray on this machine and stops it afterwards; uses the Ray that is there already.

    Args:
        address: as ``Sweep.address``.

    Raises:
        SweepError: the cluster cannot be reached.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    field, found = find_address(address)
    starts_here: dict[str, Any] = {"include_dashboard": False, **own_cpus()} if found is None else {}
    _check_reachable(field, found or "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **starts_here)
    except (OSError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        remedy = "see ray status, with RAY_AUTH_MODE=token where the cluster wants a token"
        refuse(field, f"Ray could not be reached or started ({why})", found, remedy)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler exits at once, with the signal's number
    try:
        yield
    finally:
        ray.shutdown()


def own_cpus() -> dict[str, int]:
    """``num_cpus`` for ``ray.init`` where this process may not use all: Ray minds containers, not Slurm or taskset."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity is not None else os.cpu_count()
    return {"num_cpus": allowed} if allowed is not None and allowed < (os.cpu_count() or 1) else {}


def find_address(address: str | None) -> tuple[str, str | None]:
    """Where Ray would look for a running cluster: as ``ray.init`` does, but without connecting.

    Args:
        address: as ``Sweep.address``.

    Returns:
        what names the cluster, as users know it, and its address; ``None`` where Ray would start here.
    """
    if address not in (None, "auto"):
        return "address", None if address == "local" else address
    from ray._common.utils import get_ray_address_file

    given = os.environ.get("RAY_ADDRESS") or "auto"
    if given != "auto":
        return "RAY_ADDRESS", None if given == "local" else given
    file = Path(get_ray_address_file(None))
    if file.exists():  # `ray start` leaves it, and `ray stop` takes it away
        return str(file), file.read_text(encoding="utf-8").strip()
    return "address", address


def _check_reachable(field: str, address: str) -> None:
    """Ray itself tries an address at which nothing listens for minutes."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        remedy = "start one, or leave it out" if field == "address" else f"start one, or remove {field}"
        refuse(field, f"must be a Ray cluster that answers ({error})", address, remedy)


def _resources(sweep: Sweep, nodes: list[dict[str, float]]) -> Resources:
    has_gpus = any(node.get("GPU", 0) > 0 for node in nodes)
    cpus = sweep.cpus_per_trial
    gpus = sweep.gpus_per_trial if sweep.gpus_per_trial is not None else float(has_gpus)
    able = [node for node in nodes if node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus]
    if not able:
        most = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        asked = f"{cpus:g} CPUs and {gpus:g} GPUs"
        refuse("cpus_per_trial, gpus_per_trial", f"must fit on one node ({most})", asked, "ask for less")
    slots = sum(_fits(node, cpus, gpus) for node in able)
    return Resources(cpus, gpus, slots, min(node["CPU"] for node in able))


def _fits(node: dict[str, float], cpus: float, gpus: float) -> int:
    by_cpu = int(node["CPU"] / cpus)
    return by_cpu if not gpus else min(by_cpu, int(node["GPU"] / gpus))
