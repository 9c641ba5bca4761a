"""Trials on nodes one of which lacks a precision, without a probe: python -m tests.sweeps.misplaced FOLDER.

All is real but what a trial does: it trains nothing. Prints, as JSON, the host on which each trial ended and its
status, first with both nodes, then without the one that has both precisions.
"""

import os
import socket
import sys
from pathlib import Path
from typing import Any

import ray
from ray.tune.schedulers import FIFOScheduler

from tests.sweeps.test_controller import Nothing, Numbers, Seen

NUM_TRIALS = 12


class Picky(Nothing):
    """Trials "there" run on the left alone."""

    def step(self) -> dict[str, Any]:
        has_it = self.config["spec"]["precision"] == "here" or socket.gethostname() == "left"
        report = {"status": "running" if has_it else "unsupported", "status_reason": "no such units"}
        result = {**super().step(), "host": socket.gethostname(), "report": report}
        return {**result, "node_ids": [ray.get_runtime_context().get_node_id()], "done": result["done"] or not has_it}


class Ends(Seen):
    """Keeps where trials ended, and how."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[str, tuple[str, str]] = {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        last = trial.last_result
        self.ends[trial.config["spec"]["trial_id"]] = (last["host"], last["report"]["status"])


def search(folder: Path, num_nodes: int) -> dict[str, tuple[str, str]]:
    from sweeps.engine.cluster import Resources
    from sweeps.engine.controller import run_trials
    from sweeps.engine.workers import Workers

    seen = Ends()
    with Workers(Picky, Resources(1, 0, num_nodes, 1)) as workers:
        workers.start(num_nodes)
        while len(workers.started) < num_nodes:  # else the first to start might run all
            workers.manager.next(timeout=1)
        numbers = Numbers(lambda number: number >= NUM_TRIALS, dying=-1)
        run_trials(workers, numbers, FIFOScheduler(), seen, NUM_TRIALS, 4, str(folder))
    assert not seen.failed
    return seen.ends


def main(folder: Path) -> None:
    from tests.sweeps.nodes import Nodes, say

    nodes = Nodes()
    left = nodes.add("left", num_cpus=1)
    nodes.add("right", num_cpus=1)
    ray.init(os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level="ERROR")
    say(**search(folder, 2))
    nodes.cluster.remove_node(left)
    say(**search(folder, 1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
