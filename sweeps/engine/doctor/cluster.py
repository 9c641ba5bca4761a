"""Looks at a running cluster: at every node by a task that takes nothing, at each type of device by one that has it."""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

from sweeps.engine.autoscaler import Node as Resources
from sweeps.engine.autoscaler import startable_nodes
from sweeps.engine.doctor.facts import Cluster, Machine, Measured, Node, Storage, Unanswered
from sweeps.engine.doctor.places import marked
from trainables.storage import is_url

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
    where = storage.place if is_url(storage.place) else storage.folder
    with marked(where) if storage.error is None else nullcontext() as mark:
        tasks = [start_on(look_at_node, node["NodeID"], {"num_cpus": 0}, mark) for node in alive]
        # (machine, whether it sees the folder) of each that answers
        answers = [_pair(answer) for answer in answers_of(tasks, NODE_WAIT_S)]
    nodes = tuple(_node(node, machine) for node, (machine, _) in zip(alive, answers, strict=True))
    unseen = tuple(node.name for node, (_, sees_it) in zip(nodes, answers, strict=True) if sees_it is False)
    return Cluster(address, nodes, ray.available_resources(), _startable(nodes)), unseen


def _startable(nodes: tuple[Node, ...]) -> tuple[Resources, ...] | None:
    """What nodes may still come, where none that is there has a CPU; not known where the head does not answer."""
    import ray

    if any(node.resources.get("CPU", 0) >= 1 for node in nodes):
        return ()
    with suppress(ray.exceptions.RayError):
        kinds = startable_nodes() if all(node.machine for node in nodes) else None
        return None if kinds is None else tuple(kinds)
    return None


def _pair(answer: Any) -> tuple[Machine | Unanswered, bool | None]:
    return (answer, None) if isinstance(answer, Unanswered) else answer


def measure_cluster(cluster: Cluster) -> list[Measured]:
    """Rates of every type of device, each on one node: of GPUs by their name, of nodes without by their CPU's.

    Args:
        cluster: the connected one.
    """
    nodes: dict[str, Node] = {}
    for node in cluster.nodes:
        kind = device_type(node)
        if kind is not None:
            nodes.setdefault(kind, node)
    tasks = [start_on(measure_node, node.node_id, exclusive(node), exclusive(node)) for node in nodes.values()]
    return [
        Measured(kind, node.name, error=answer) if isinstance(answer, Unanswered) else answer
        for (kind, node), answer in zip(nodes.items(), answers_of(tasks, DEVICE_WAIT_S), strict=True)
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


def _node(node: dict[str, Any], machine: Machine | Unanswered) -> Node:
    name = node.get("NodeManagerHostname") or node["NodeManagerAddress"]
    if isinstance(machine, Unanswered):
        return Node(node["NodeID"], name, node["Resources"], error=machine)
    return Node(node["NodeID"], name, node["Resources"], machine)


def start_on(function: Callable[..., Any], node_id: str, resources: dict[str, int], *arguments: Any) -> Any:
    """A Ray task on a node, and nowhere else.

    Args:
        function: of ``arguments``.
        node_id: Ray's name of the node.
        resources: that the task reserves, as options of Ray's.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote: Any = ray.remote  # its overloads do not describe options that are only known when it runs
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return remote(max_retries=0, scheduling_strategy=there, **resources)(function).remote(*arguments)


def answers_of(tasks: list[Any], seconds: float) -> list[Any]:
    """What each task returns, or why it did not within a time that is the same for all; what is left is cancelled."""
    import ray

    ready = set(ray.wait(tasks, num_returns=len(tasks), timeout=seconds)[0]) if tasks else set()
    for task in set(tasks) - ready:
        ray.cancel(task, force=True)
    late = Unanswered(f"no answer within {seconds:g} s", timed_out=True)
    return [_answer(task) if task in ready else late for task in tasks]


def _answer(task: Any) -> Any:
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, BaseException) else error
        return Unanswered(f"{type(cause).__name__}: {_last_line(str(cause))}")
    except ray.exceptions.RayError as error:
        return Unanswered(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:300]
