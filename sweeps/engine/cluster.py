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
        SweepError: no node of the cluster has what a trial asks for.
    """
    import ray

    ours = not ray.is_initialized()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if ours:
        starts_here = sweep.address is None and not os.environ.get("RAY_ADDRESS")
        local: dict[str, Any] = {"include_dashboard": False} if starts_here else {"address": sweep.address}
        _check_reachable(local.get("address") or "")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **local)
        except (OSError, RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())[:300]
            refuse("address", f"Ray could not be reached or started ({why})", sweep.address, "see ray status")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler exits at once, with the signal's number
    try:
        yield _resources(sweep, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    finally:
        if ours:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself tries an address at which nothing listens for minutes."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        refuse("address", f"must be a Ray cluster that answers ({error})", address, "start one, or leave it out")


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
