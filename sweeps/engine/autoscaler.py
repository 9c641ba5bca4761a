"""Which nodes the cluster's autoscaler may start: Ray itself waits for ever for one that it cannot."""

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Answer = TypeVar("Answer")

Node = Mapping[str, float]
"""A node's resources by Ray's names: ``CPU``, ``GPU``."""

HEAD = "node:__internal_head__"
"""The resource that only the head node has."""


def startable_nodes() -> list[Node] | None:
    """A node of each kind that may be started; none without an autoscaler; ``None`` where that cannot be known.

    Source:
        Ray 2.60: platforms such as Anyscale report their node groups to the cluster (``GetClusterConfig``). The
        autoscalers of ``ray up`` do not, so that the file that theirs was started with is read, on the head node. The
        one of KubeRay runs in a container of its own, out of sight.
    """
    from ray._private.state import state

    reported = state.get_cluster_config()
    if reported is not None:
        return [dict(group.resources) for group in reported.node_group_configs if group.max_count != 0]
    return ask_head(_of_monitor)


def ask_head(question: Callable[[], Answer]) -> Answer | None:
    """What a function gives on the head node, where the autoscaler of ``ray up`` runs; ``None`` without a head."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"]]
    if not heads or heads[0] == ray.get_runtime_context().get_node_id():
        return question() if heads else None
    remote: Any = ray.remote  # its overloads do not describe options
    there = remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(heads[0], soft=False))
    found: Answer | None = ray.get(there(question).remote())
    return found


def _of_monitor() -> list[Node] | None:
    """The nodes that the autoscaler on this machine may start."""
    config = config_of_monitor()
    if config is None:
        return None
    return node_types(config) if config else []


def config_of_monitor() -> dict[str, Any] | None:
    """What the autoscaler's process on this machine was started with; it is part of Ray's monitor.

    Returns:
        nothing in it where the monitor has no autoscaler; ``None`` where there is none, or it cannot be read.
    """
    import ray

    of_this_cluster = f"--gcs-address={ray.get_runtime_context().gcs_address}"
    import psutil  # after Ray, which brings it along
    import yaml

    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if of_this_cluster not in words or not any(_is_autoscaler(word) for word in words):
            continue
        options = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
        if "--autoscaling-config" not in options:
            return {}
        try:
            with open(os.path.expanduser(options["--autoscaling-config"]), encoding="utf-8") as file:
                config: dict[str, Any] = yaml.safe_load(file)
                return config
        except (OSError, ValueError, yaml.YAMLError):
            return None
    return None


def _is_autoscaler(word: str) -> bool:
    return word.endswith("monitor.py") and "autoscaler" in word


def node_types(config: Mapping[str, Any]) -> list[Node]:
    """A node of each kind of a cluster's configuration that may be started.

    Args:
        config: as ``ray up`` takes it.
    """
    most = config.get("max_workers", DEFAULT_MAX_WORKERS)
    kinds: Mapping[str, Any] = config.get("available_node_types") or {}
    return [
        dict(kind.get("resources") or {})
        for name, kind in kinds.items()
        if min(most, kind.get("max_workers", 0 if name == config.get("head_node_type") else most)) > 0
    ]


DEFAULT_MAX_WORKERS = 2
"""Ray's own, of a configuration that names no number."""
