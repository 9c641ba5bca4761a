"""What a node costs an hour, and which part of it a run pays for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

Prices = float | Mapping[str, float]
"""USD per hour of a node: one price for all, or by name; see :func:`price_of`."""

KINDS = ("cpu", "gpu")
"""Names of prices that fit every device of a kind, where no other does."""


@dataclass(frozen=True)
class PricedNode:
    """A node of the cluster.

    Args:
        cpus, gpus: all that it has.
        node_type: its name in the cluster's configuration; empty where it has none.
    """

    cpus: float
    gpus: float
    node_type: str = ""


def price_of(prices: Prices, device: str | None, node: PricedNode, uses_gpus: bool) -> float | None:
    """The price of a node.

    Of several prices that fit, the one of its node type counts, else the one whose name says most of the device.

    Args:
        prices: a name among them is that of a node type of the cluster, or some words of a device's name in any order
            (``H100`` or ``h100 80gb`` for an ``NVIDIA H100 80GB HBM3``; ``A10`` fits no ``A100``), or ``cpu`` or
            ``gpu`` for what a run uses.
        device: the device's name, as in the results; ``None`` where it is not known.
        node: which one.
        uses_gpus: whether the run holds GPUs.

    Returns:
        USD per hour; ``None`` where no price fits, or several fit equally and differ.
    """
    if not isinstance(prices, Mapping):
        return prices
    fits = {name: _fit(name, device or "", node.node_type, KINDS[uses_gpus]) for name in prices}
    best = max(fits.values())
    found = {prices[name] for name, fit in fits.items() if fit == best}
    return found.pop() if best >= 0 and len(found) == 1 else None


def _fit(name: str, device: str, node_type: str, kind: str) -> float:
    """How much a price's name says of a node; below 0 where it is another's."""
    if name.casefold() == node_type.casefold():
        return float("inf")
    if name.casefold() in KINDS:
        return 0 if name.casefold() == kind else -1
    wanted = words_of(name)
    return len(wanted) if wanted <= words_of(device) else -1


def words_of(name: str) -> frozenset[str]:
    """The letters and digits of a name, in lower case, by words."""
    return frozenset(re.findall(r"[^\W_]+", name.casefold()))


def share_of(node: PricedNode, cpus: float, gpus: float) -> float:
    """The part of a node that a run pays for: nobody else can use what it leaves of the other resource.

    Args:
        node: which one.
        cpus, gpus: what the run holds of it.

    Returns:
        the larger of its shares of the node's CPUs and GPUs, 0 to 1.
    """
    held = [part / whole for part, whole in ((cpus, node.cpus), (gpus, node.gpus)) if whole > 0]
    return min(1.0, max(held, default=1.0))
