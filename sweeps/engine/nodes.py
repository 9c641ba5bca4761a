"""The nodes of the cluster, as Ray knows them."""

from collections.abc import Iterable, Mapping
from typing import Any

from sweeps.engine.prices import PricedNode

NODE_TYPE = "ray.io/node-group"
"""The label in which autoscalers keep the name of a node's type."""


def find_node(node_id: str) -> PricedNode | None:
    """A node by Ray's id; ``None`` where there is none that is alive."""
    import ray

    return node_in(ray.nodes(), node_id)


def node_in(nodes: Iterable[Mapping[str, Any]], node_id: str) -> PricedNode | None:
    """A node of a list such as ``ray.nodes()`` gives.

    Args:
        nodes: with ``NodeID``, ``Resources`` and ``Labels`` of each; a node that is gone has no resources any more.
        node_id: Ray's id of it.
    """
    for node in nodes:
        resources = node.get("Resources") or {}
        if node["NodeID"] == node_id and resources.get("CPU", 0) + resources.get("GPU", 0) > 0:
            node_type = (node.get("Labels") or {}).get(NODE_TYPE, "")
            return PricedNode(resources.get("CPU", 0.0), resources.get("GPU", 0.0), node_type)
    return None
