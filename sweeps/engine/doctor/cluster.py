"""Looks at a running cluster: at every node by a task that takes nothing, at each type of device by one that has it."""

from collections.abc import Callable, Sequence
from typing import Any

from sweeps.engine.doctor.facts import Cluster, Machine, Measured, Node, Storage
from sweeps.engine.doctor.places import marked

NODE_WAIT_S, DEVICE_WAIT_S = 60.0, 60.0
"""How long a node may take to answer, the start of a worker process included, and a device to be free and measured."""


def look_at_cluster(address: str, storage: Storage) -> tuple[Cluster, tuple[str, ...]]:
    """Every node of the connected cluster.

    Args:
        address: where it was reached.
        storage: whose folder every node ought to see.

    Returns:
        the cluster, and the names of the nodes that do not see the folder.
    """
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    if storage.error is not None:
        answers = _ask_all(alive, None)
    else:
        with marked(storage) as mark:
            answers = _ask_all(alive, mark)
    nodes = tuple(_node(node, answer) for node, answer in zip(alive, answers, strict=True))
    unseen = tuple(node.name for node, answer in zip(nodes, answers, strict=True) if answer[1] is False)
    return Cluster(address, nodes, ray.available_resources()), unseen


def measure_cluster(cluster: Cluster) -> list[Measured]:
    """Rates of every type of device, each on one node: of GPUs by their name, of nodes without by their CPU's.

    Args:
        cluster: the connected one.
    """
    import ray

    ids = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    named = {device_type(node): (node, node_id) for node, node_id in zip(cluster.nodes, ids, strict=True)}
    named = {kind: found for kind, found in named.items() if kind is not None}
    tasks = [_start(measure_node, node_id, exclusive(node), exclusive(node)) for node, node_id in named.values()]
    answers = [_answer(task, DEVICE_WAIT_S) for task in tasks]
    return [
        answer if isinstance(answer, Measured) else Measured(str(kind), node.name, reason=answer)
        for (kind, (node, _)), answer in zip(named.items(), answers, strict=True)
    ]


def device_type(node: Node) -> str | None:
    """What trials on a node would train on: its GPU's or CPU's name; ``None`` where there is nothing to train on."""
    if node.machine is None or node.resources.get("CPU", 0) < 1:
        return None
    if node.resources.get("GPU", 0) <= 0:
        return node.machine.cpu
    names = [gpu.name for gpu in node.machine.gpus]
    types = [name.partition(":")[2] for name in node.resources if name.startswith("accelerator_type:")]
    return (names or types or ["GPU"])[0]


def exclusive(node: Node) -> dict[str, int]:
    """What a measurement reserves: one GPU, or all CPUs of the node, since what runs beside it shows in the rates."""
    if node.resources.get("GPU", 0) > 0:
        return {"num_cpus": 1, "num_gpus": 1}
    return {"num_cpus": int(node.resources["CPU"]), "num_gpus": 0}


def measure_node(resources: dict[str, int]) -> Measured:
    """A Ray task: rates of the device that this worker was given."""
    from sweeps.engine.doctor.devices import measure_cpu, measure_gpu

    return measure_gpu(0) if resources["num_gpus"] else measure_cpu(resources["num_cpus"])


def look_at_node(mark: tuple[str, str] | None) -> tuple[Machine, bool | None]:
    """A Ray task: the node's machine, and whether it sees the file by which the storage folder is known."""
    from sweeps.engine.doctor.machine import look_at_machine
    from sweeps.engine.doctor.places import sees

    return look_at_machine(use_gpus=False), None if mark is None else sees(*mark)


def _ask_all(nodes: Sequence[dict[str, Any]], mark: tuple[str, str] | None) -> list[tuple[Machine | str, bool | None]]:
    """Of each node its machine, or why it could not be asked; and whether it sees the file."""
    nothing = {"num_cpus": 0, "num_gpus": 0}
    tasks = [_start(look_at_node, node["NodeID"], nothing, mark) for node in nodes]
    answers = [_answer(task, NODE_WAIT_S) for task in tasks]
    return [(answer, None) if isinstance(answer, str) else answer for answer in answers]


def _node(node: dict[str, Any], answer: tuple[Machine | str, bool | None]) -> Node:
    name, found = node.get("NodeManagerHostname") or node["NodeManagerAddress"], answer[0]
    if isinstance(found, str):
        return Node(name, node["Resources"], error=found)
    return Node(name, node["Resources"], found)


def _start(function: Callable[..., Any], node_id: str, resources: dict[str, int], *arguments: Any) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote: Any = ray.remote  # its overloads do not describe options that are only known when it runs
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return remote(max_retries=0, scheduling_strategy=there, **resources)(function).remote(*arguments)


def _answer(task: Any, seconds: float) -> Any:
    """What a task returns, or a sentence why it did not."""
    import ray

    try:
        return ray.get(task, timeout=seconds)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(task, force=True)
        return f"no answer within {seconds:g} s"
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, BaseException) else error
        return f"{type(cause).__name__}: {_last_line(str(cause))}"
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:300]
