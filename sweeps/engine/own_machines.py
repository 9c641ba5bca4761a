"""Clusters of own machines: what a worker has is known once it has joined, which `ray up` does not wait for."""

import time
from typing import Any

from sweeps.engine.autoscaler import ask_head, config_of_monitor
from sweeps.search.checks import refuse

JOIN_S = 300.0
"""Seconds that the first worker has: on machines that are set up anew PyTorch has to be installed."""


def await_first_worker(limit_s: float = JOIN_S) -> None:
    """Waits for the first worker where the cluster is one of own machines and only its head is there yet.

    Without, a sweep that is submitted right after `ray up` would be refused, or would train on the head's CPUs.

    Args:
        limit_s: seconds to wait at most.

    Raises:
        SweepError: none has joined.
    """
    if _num_nodes() > 1:
        return
    count = ask_head(_num_own)
    if not count:
        return
    print(f"cluster waits for the first of its {count} workers", flush=True)
    deadline = time.monotonic() + limit_s
    while _num_nodes() < 2:
        if time.monotonic() > deadline:
            remedy = "see ray status on the head, and /tmp/ray/session_latest/logs/monitor.log"
            refuse(
                "address", f"must be a cluster whose workers join it within {limit_s:g} s", f"none of {count}", remedy
            )
        time.sleep(0.5)


def _num_nodes() -> int:
    import ray

    return sum(node["Alive"] for node in ray.nodes())


def _num_own() -> int:
    """How many workers the autoscaler on this machine keeps, where they are own machines."""
    config: dict[str, Any] = config_of_monitor() or {}
    if config.get("provider", {}).get("type") != "local":
        return 0
    return sum(kind.get("min_workers", 0) for kind in config["available_node_types"].values())
