"""Says what a sweep waits for while nothing of it runs: a node may be gone for good, or others may hold them all."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from sweeps.engine.cluster import listed
from sweeps.engine.progress import Progress

FIRST_S = 120.0
"""How long nothing has to run before that is told: a worker takes seconds to start, and Ray to notice a lost node."""

LOOK_EVERY_S = 10.0
"""How often whoever waits has a look, at least."""

RARER = 5
"""How many times as long it takes until it is told again."""


Nodes = list[dict[str, Any]]
"""As ``ray.nodes()`` tells of them."""


def _nodes_of_ray() -> Nodes:
    import ray

    nodes: Nodes = ray.nodes()
    return nodes


class Idle:
    """Watches whether anything runs.

    Args:
        progress: where what is waited for is shown.
        options: Ray's remote options of each worker that waits: its CPUs and GPUs.
        num_workers: that have to run at once.
        nodes: tells of those of the cluster.
        clock: seconds since any moment.
    """

    def __init__(
        self,
        progress: Progress,
        options: Mapping[str, Any],
        num_workers: int = 1,
        nodes: Callable[[], Nodes] = _nodes_of_ray,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress, self._nodes, self._clock = progress, nodes, clock
        each = f"{options['num_cpus']:g} CPUs and {options['num_gpus']:g} GPUs"
        self._asked = each if num_workers == 1 else f"{num_workers} times {each}"
        self._since, self._due_s = clock(), FIRST_S

    def look(self, is_busy: bool) -> None:
        """Takes note of whether anything runs, every :data:`LOOK_EVERY_S` at least."""
        now = self._clock()
        if is_busy:
            self._since, self._due_s = now, FIRST_S
        elif now - self._since >= self._due_s:
            self._due_s *= RARER
            self._say(now - self._since)

    def _say(self, seconds: float) -> None:
        alive = [node["Resources"] for node in self._nodes() if node["Alive"]]
        self._progress.say(
            f"  nothing runs since {seconds / 60:.0f} min: waits for {self._asked} that are free, "
            f"on nodes that can be used (there are: {listed(alive)}; ray status tells who has what)"
        )
