"""What a sweep would cost, as far as that is known without a cluster."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.money import dollars
from sweeps.engine.prices import PricedNode, price_of, share_of
from sweeps.search.checks import SweepError

if TYPE_CHECKING:
    from sweeps.engine.sweep import Sweep


def costs(sweep: "Sweep") -> list[str]:
    """The lines of a plan that tell prices, what this machine's share is an hour, and the budgets of the search."""
    return [*_prices(sweep), *_budgets(sweep)]


def _prices(sweep: "Sweep") -> list[str]:
    prices = sweep.usd_per_hour
    if prices is None:
        return []
    if isinstance(prices, Mapping):
        shown = ", ".join(f"{name} {dollars(price)}" for name, price in prices.items())
    else:
        shown = dollars(prices)
    line = f"price   an hour of a node: {shown}; each run pays for the share that it holds"
    here = this_machine(sweep)
    return [line] if here is None else [line, *_on(here, sweep)]


def _on(node: PricedNode, sweep: "Sweep") -> list[str]:
    """What trials cost that fill a machine, where its price is known without its device's name."""
    from sweeps.engine.cluster import resources_of

    assert sweep.usd_per_hour is not None
    try:
        found = resources_of(sweep, [{"CPU": node.cpus, "GPU": node.gpus}])
    except SweepError:  # it may be meant for another machine
        return []
    price = price_of(sweep.usd_per_hour, None, node, found.num_gpus > 0)
    if price is None:
        return []
    part, num = share_of(node, found.num_cpus, found.num_gpus), found.slots
    each = "" if num == 1 else f", {dollars(part * price)} for each"
    return [f"        on this machine {num} at once: {dollars(num * part * price)} an hour{each}"]


def this_machine(sweep: "Sweep") -> PricedNode | None:
    """The machine of this process, where the sweep would start Ray on it; ``None`` where it would use a cluster."""
    from sweeps.engine.cluster import find_address, own_cpus

    if find_address(sweep.address)[1] is not None:
        return None
    cpus = own_cpus().get("num_cpus", os.cpu_count() or 1)
    return PricedNode(cpus, visible_gpus(len(list(Path("/dev").glob("nvidia[0-9]*")))))


def visible_gpus(num: int) -> int:
    """How many of a machine's GPUs a Ray that starts here counts: it minds ``CUDA_VISIBLE_DEVICES``."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return num if visible is None else min(num, len(visible.split(",")) if visible else 0)


def _budgets(sweep: "Sweep") -> list[str]:
    limits = [dollars(sweep.budget_usd)] if sweep.budget_usd is not None else []
    if sweep.budget_hours is not None:
        limits.append(f"{sweep.budget_hours:g} {'hour' if sweep.budget_hours == 1 else 'hours'}")
    if not limits:
        return []
    confirmed = ", and what it found is confirmed" if sweep.confirm is not None and sweep.stage == "confirm" else ""
    return [f"budget  the search ends after {' or '.join(limits)}{confirmed}"]
