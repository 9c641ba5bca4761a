"""The Ray cluster that a sweep runs on: a running one, or one started here for as long as the sweep lasts."""

import functools
import logging
import math
import os
import signal
import socket
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sweeps.engine.autoscaler import Node, startable_nodes
from sweeps.engine.sweep import Sweep
from sweeps.search.checks import refuse


@dataclass(frozen=True)
class Resources:
    """What each trial gets, and how many of them run at once.

    Args:
        num_cpus: of each trial.
        num_gpus: of each trial.
        slots: trials that the cluster runs at once, as it stands; on the first node to come where it has none for them.
        exclusive_cpus: all CPUs of the smallest node that can run a trial: what a timing reserves.
        waits_for: what has to come before a trial can run, in words; empty where nothing has to.
    """

    num_cpus: float
    num_gpus: float
    slots: int
    exclusive_cpus: float
    waits_for: str = ""

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
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield _resources(sweep, nodes, functools.cache(startable_nodes))
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


def _resources(sweep: Sweep, nodes: list[Node], startable: Callable[[], list[Node] | None] = list) -> Resources:
    """What each trial gets.

    Args:
        sweep: what it asks for.
        nodes: those of the cluster.
        startable: tells of those that may be added, as :func:`startable_nodes`; not asked where it does not matter.

    Raises:
        SweepError: a trial fits on none of them.
    """
    cpus, gpus = sweep.cpus_per_trial, sweep.gpus_per_trial
    if gpus is None:
        gpus = float(_have_gpus(nodes) or _have_gpus(startable() or []))
    able = _able(nodes, cpus, gpus)
    if able:
        return Resources(cpus, gpus, sum(_fits(node, cpus, gpus) for node in able), min(node["CPU"] for node in able))
    kinds = startable()
    asked = f"{cpus:g} CPUs and {gpus:g} GPUs"
    if kinds is None:
        return Resources(cpus, gpus, 1, cpus, f"no node has the {asked} of a trial: waits until one is added")
    able = _able(kinds, cpus, gpus)
    if not able:
        more = f"; the autoscaler may start: {_listed(kinds)}" if kinds else ""
        condition = f"must fit on one node (there are: {_listed(nodes)}{more})"
        refuse("cpus_per_trial, gpus_per_trial", condition, asked, "ask for less, or add larger nodes")
    waits_for = f"no node has the {asked} of a trial: waits for one of {_listed(able)} from the autoscaler"
    slots = min(_fits(node, cpus, gpus) for node in able)
    return Resources(cpus, gpus, slots, min(node["CPU"] for node in able), waits_for)


def _have_gpus(nodes: list[Node]) -> bool:
    return any(node.get("GPU", 0) > 0 for node in nodes)


def _able(nodes: list[Node], cpus: float, gpus: float) -> list[Node]:
    return [node for node in nodes if node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus]


def _listed(nodes: list[Node]) -> str:
    """What nodes have, e.g. ``3 x 8 CPUs and 1 GPUs, 2 CPUs and 0 GPUs``."""
    counts = Counter(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
    return ", ".join(what if count == 1 else f"{count} x {what}" for what, count in counts.items()) or "none"


def _fits(node: Node, cpus: float, gpus: float) -> int:
    by_cpu = int(node["CPU"] / cpus)
    return by_cpu if not gpus else min(by_cpu, int(node["GPU"] / gpus))
