"""What Ray has, and what is wrong with it: facts to findings, nothing else."""

from collections.abc import Iterator, Mapping, Sequence

from sweeps.engine.cluster import listed
from sweeps.engine.doctor.facts import Cluster, Finding, Machine, Node, Unanswered
from sweeps.engine.doctor.words import count, size


def no_cluster_findings(machine: Machine) -> Iterator[Finding]:
    """What a sweep would do where no Ray is running.

    Args:
        machine: this one.
    """
    gpus = count(machine.torch.num_devices or 0, "GPU")
    here = f"none running; a sweep starts one here with {count(machine.ray_cpus, 'CPU')} and {gpus}"
    yield Finding("Ray", "cluster", here)


def unreachable_findings(error: str) -> Iterator[Finding]:
    """A cluster that ought to be there and is not.

    Args:
        error: the line that says what was tried, why it failed and what to do.
    """
    said, _, remedy = error.rpartition("; ")
    yield Finding("Ray", "cluster", "not reached", said, remedy, True)


def cluster_findings(cluster: Cluster, driver: Machine) -> Iterator[Finding]:
    """The nodes of a cluster, and what keeps trials from running alike on them.

    Args:
        cluster: its facts.
        driver: the machine that this process runs on.
    """
    total = _total(cluster, "CPU"), _total(cluster, "GPU")
    free = cluster.available.get("CPU", 0), cluster.available.get("GPU", 0)
    shown = (
        f"{cluster.address}, {count(len(cluster.nodes), 'node')}, {count(total[0], 'CPU')}, {count(total[1], 'GPU')}"
    )
    yield Finding("Ray", "cluster", shown)
    yield _free(total, free, cluster.startable)
    for node in cluster.nodes:
        yield Finding("Ray", "node", _resources(node), nodes=(node.name,))
        yield from _node(node, driver)


def _total(cluster: Cluster, name: str) -> float:
    return sum(node.resources.get(name, 0) for node in cluster.nodes)


def _free(
    total: tuple[float, float], free: tuple[float, float], startable: Sequence[Mapping[str, float]] | None
) -> Finding:
    value = f"{free[0]:g} of {count(total[0], 'CPU')} and {free[1]:g} of {count(total[1], 'GPU')}"
    if total[0] < 1 and startable is None:
        remedy = "a sweep waits for one, and says so: see that an autoscaler adds nodes"
        return Finding("Ray", "free", value, "no node has a CPU for trials as yet", remedy)
    if total[0] < 1:
        come = [kind for kind in startable or () if kind.get("CPU", 0) >= 1]
        if come:
            return Finding("Ray", "free", f"{value}; the autoscaler starts nodes for a sweep: {listed(come)}")
        remedy = "start a worker: ray start --address ... --num-cpus N"
        return Finding("Ray", "free", value, "no node has a CPU for trials", remedy, True)
    if free[0] < 1 or (total[1] and free[1] <= 0):
        problem = f"all {'CPUs' if free[0] < 1 else 'GPUs'} of the cluster are in use, so a sweep would wait"
        return Finding("Ray", "free", value, problem, "see ray status; wait, or add nodes")
    return Finding("Ray", "free", value)


def _resources(node: Node) -> str:
    parts = [count(node.resources.get(name, 0), name) for name in ("CPU", "GPU")]
    parts += [name.partition(":")[2] for name in node.resources if name.startswith("accelerator_type:")]
    parts += [
        f"{size(node.resources[name])} {words}"
        for name, words in (("memory", "memory"), ("object_store_memory", "for objects"))
        if name in node.resources
    ]
    return ", ".join(parts)


def _silent(name: str, error: Unanswered) -> Finding:
    if error.timed_out:
        problem, remedy = error.reason, "see ray status, and try again: a first process there may take long to start"
    else:
        problem = f"ampsweep does not run there ({error.reason})"
        remedy = "install it and its packages there, or send it along: ray job submit --working-dir ."
    return Finding("Ray", "node", "no answer", problem, remedy, not error.timed_out, (name,))


def _node(node: Node, driver: Machine) -> Iterator[Finding]:
    if node.error is not None:
        yield _silent(node.name, node.error)
    if node.machine is None:
        return
    for name, here in driver.versions.items():
        there = node.machine.versions.get(name)
        if there != here:
            problem = f"{name} is {there or 'not installed'} there, but {here or 'not installed'} at the driver"
            remedy = f"install the same {name} everywhere: pairs are only alike on the same software"
            yield Finding("Ray", name, there or "not installed", problem, remedy, nodes=(node.name,))
    counted, there_are = node.resources.get("GPU", 0), len(node.machine.gpus)
    if counted < there_are and node.resources.get("CPU", 0):  # a head that is to run no trials has neither
        problem = f"Ray counts {counted:g} of {count(there_are, 'GPU')}"
        remedy = f"start it with ray start --num-gpus {there_are}, and without CUDA_VISIBLE_DEVICES"
        yield Finding("Ray", "GPUs", f"{counted:g}", problem, remedy, nodes=(node.name,))
    if node.resources.get("CPU", 0) > node.machine.ray_cpus:
        has = count(node.machine.ray_cpus, "CPU")
        problem = f"Ray counts {count(node.resources['CPU'], 'CPU')}, but the machine has {has}, so trials share them"
        remedy = f"start it with ray start --num-cpus {node.machine.ray_cpus}"
        yield Finding("Ray", "CPUs", f"{node.resources['CPU']:g}", problem, remedy, nodes=(node.name,))
