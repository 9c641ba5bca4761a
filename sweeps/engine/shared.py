"""Whether all nodes of a cluster see the storage: Ray alone would find out at a trial's first checkpoint."""

from collections.abc import Collection

from sweeps.engine.doctor.cluster import NODE_WAIT_S, answers_of, start_on
from sweeps.engine.doctor.facts import Unanswered
from sweeps.engine.doctor.places import marked, sees
from sweeps.engine.folders import Home
from sweeps.search.checks import refuse


def check_shared(home: Home, before: Collection[str] = ()) -> set[str]:
    """Has every node of the connected cluster look for a file that the driver writes.

    A node that gives no answer, as one that is busy, is given the benefit of the doubt.

    Args:
        home: where the run's results lie; its folder is there.
        before: Ray's ids of the nodes that have looked before.

    Returns:
        ids of the nodes that have looked by now.

    Raises:
        SweepError: a node does not see it.
    """
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    there = {node["NodeID"] for node in alive}
    new = [node for node in alive if node["NodeID"] not in before]
    if not new or len(there.union(before)) < 2:  # one sees what it writes itself
        return there
    with marked(home.place) as mark:
        tasks = [start_on(sees, node["NodeID"], {"num_cpus": 0}, *mark) for node in new]
        seen = answers_of(tasks, NODE_WAIT_S)
    blind = [
        node["NodeManagerHostname"] or node["NodeManagerAddress"]
        for node, answer in zip(new, seen, strict=True)
        if not isinstance(answer, Unanswered) and not answer
    ]
    if blind:
        condition = f"must be the same on all nodes ({', '.join(sorted(set(blind)))} cannot read what is written there)"
        refuse("storage", condition, str(home), "name a folder that all share, such as NFS, or s3://bucket/sweeps")
    return there
