"""The device types of the cluster: which nodes have devices alike, and how trials are kept to them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweeps.engine.autoscaler import Node
from sweeps.engine.cluster import Resources, listed
from sweeps.engine.doctor.cluster import NODE_WAIT_S, answers_of, start_on
from sweeps.engine.doctor.facts import Unanswered
from sweeps.engine.doctor.gpus import find_gpus
from sweeps.search.checks import refuse
from trainables.cpu import cpu_name

ACCELERATOR = "accelerator_type:"
"""Begins the name of the resource that Ray gives nodes by the model of their GPUs."""

SLIGHT = 0.001
"""How much of that resource a task takes: Ray's own figure, of 1 that a node has."""

NODE_ID = "ray.io/node-id"
"""The label of Ray's that every node has."""


@dataclass(frozen=True)
class DeviceType:
    """Nodes whose devices are alike.

    Args:
        name: of their GPUs, or else their CPU, as the column ``device`` has it.
        nodes: as ``ray.nodes()`` tells of them, at least one.
        fits: whether all workers of a trial have room on them, or may have once further ones have come.
    """

    name: str
    nodes: tuple[Mapping[str, Any], ...]
    fits: bool = True

    @property
    def has(self) -> list[Node]:
        """What each node has."""
        return [node["Resources"] for node in self.nodes]

    @property
    def accelerators(self) -> set[str]:
        """Ray's resources that name their GPUs; several where Ray tells models apart that the driver does not."""
        return {name for node in self.nodes for name in node["Resources"] if name.startswith(ACCELERATOR)}


def device_types(resources: Resources) -> list[DeviceType]:
    """Those of the connected cluster that a worker has room on, by name; none where its nodes have still to come.

    A node that does not answer is of no type.

    Args:
        resources: of each trial.
    """
    import ray

    able = [node for node in ray.nodes() if node["Alive"] and resources.fit_on(node["Resources"])]
    found: dict[str, list[Mapping[str, Any]]] = {}
    for node, name in zip(able, _names(able, resources.num_gpus > 0), strict=True):
        if name is not None:
            found.setdefault(name or _accelerator(node), []).append(node)
    types = [DeviceType(name, tuple(nodes)) for name, nodes in sorted(found.items())]
    return [replace(each, fits=resources.can_grow or resources.whole_on(each.has) > 0) for each in types]


def check_fit(types: Sequence[DeviceType], resources: Resources) -> None:
    """Refuses trials whose workers would have to run on several device types.

    Raises:
        SweepError: no type has room for all of them.
    """
    if types and not any(each.fits for each in types):
        there = "; ".join(f"{each.name}: {listed(each.has)}" for each in types)
        remedy = "ask for fewer, or add nodes"
        refuse(
            "workers_per_trial", f"must all fit on one device type (there are {there})", resources.num_workers, remedy
        )


def _names(nodes: Sequence[Mapping[str, Any]], use_gpus: bool) -> list[str | None]:
    import ray

    here = ray.get_runtime_context().get_node_id()
    away = [node["NodeID"] for node in nodes if node["NodeID"] != here]
    answers = answers_of([start_on(own_device, node, {"num_cpus": 0}, use_gpus) for node in away], NODE_WAIT_S)
    names = dict(zip(away, answers, strict=True))
    if len(away) < len(nodes):
        names[here] = own_device(use_gpus)
    return [None if isinstance(name := names[node["NodeID"]], Unanswered) else name for node in nodes]


def own_device(use_gpus: bool) -> str:
    """The name of this machine's GPUs, empty where its driver tells none; or that of its CPU."""
    if not use_gpus:
        return cpu_name()
    return next((gpu.name for gpu in find_gpus()), "")


def check_device(name: str, use_gpus: bool) -> None:
    """Keeps a run to its device type: nodes of other types may have joined since it was placed.

    Args:
        name: of the type; a part of a GPU has a name that only PyTorch knows.
        use_gpus: whether it trains on GPUs.

    Raises:
        Misplaced: this machine is of another type.
    """
    from sweeps.engine.failures import Misplaced

    here = own_device(use_gpus)
    if name and here and here != name.partition(" MIG ")[0]:
        raise Misplaced(f"must run on {name}, and came to {here}")


def _accelerator(node: Mapping[str, Any]) -> str:
    """What Ray calls a node's GPUs."""
    names = (name.removeprefix(ACCELERATOR) for name in node["Resources"] if name.startswith(ACCELERATOR))
    return next(names, "GPU")


def only_on(kept: Sequence[DeviceType], among: Sequence[DeviceType]) -> dict[str, Any]:
    """Options of Ray's that keep a task to some device types; none where these are all.

    By the name of their GPUs where that is enough, since autoscalers understand it. Otherwise the nodes of other types
    are ruled out: a node that comes later, or comes back, may be of the right one.

    Args:
        kept: at least one.
        among: all types of the cluster.
    """
    others = [each for each in among if each not in kept]
    if not others:
        return {}
    if len(kept) == 1 and len(kept[0].accelerators) == 1:
        (name,) = kept[0].accelerators
        if all(name not in other.accelerators for other in others):
            return {"resources": {name: SLIGHT}}
    ruled_out = ",".join(node["NodeID"] for other in others for node in other.nodes)
    return {"label_selector": {NODE_ID: f"!in({ruled_out})"}}


def ruling_out(node_ids: Iterable[str], placement: Mapping[str, Any]) -> dict[str, Any]:
    """Options that keep a task from further nodes.

    Args:
        node_ids: Ray's, of those nodes.
        placement: options that keep it to some of the nodes already.
    """
    before = placement.get("label_selector", {}).get(NODE_ID, "!in()").removeprefix("!in(").removesuffix(")")
    names = [name for name in before.split(",") if name]
    return {**placement, "label_selector": {NODE_ID: f"!in({','.join([*names, *node_ids])})"}}


def resources_on(kept: DeviceType, among: Sequence[DeviceType], resources: Resources) -> Resources:
    """A trial's resources on one device type alone.

    Args:
        kept: the type.
        among: all types of the cluster.
        resources: of a trial that may run on any.
    """
    return resources.kept_to(kept.has, only_on([kept], among))


def search_on(able: Sequence[DeviceType], among: Sequence[DeviceType], resources: Resources) -> dict[str, Any]:
    """Options that keep each trial of the search to some device types, its workers all to the same.

    Args:
        able: at least one.
        among: all types of the cluster.
        resources: of a trial.
    """
    if resources.num_workers == 1 or len(able) < 2:
        return only_on(able, among)
    on_a_node = [each for each in able if any(resources.whole_on([node]) for node in each.has)]
    if on_a_node:
        return {**only_on(on_a_node, among), "strategy": "STRICT_PACK"}
    return only_on([max(able, key=lambda each: resources.whole_on(each.has))], among)
