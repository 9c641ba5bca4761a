"""A whole sweep on nodes that come and go: python -m tests.sweeps.scaling FOLDER.

The autoscaler is Ray's own; the nodes are processes of this machine, one of which is ended in the search as if its host
had lost its power. Prints what was seen, a line of JSON each time that the nodes or the sweep's stage changed.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sweeps import Confirm, Sweep
from tests.sweeps.fake_provider import autoscaling
from tests.sweeps.nodes import ROOT

NUM_TRIALS, EPOCHS, NUM_SEEDS = 16, 40, 3
NUM_CONFIRMED = 2 * NUM_SEEDS


def declare(folder: Path) -> Sweep:
    """One configuration with several seeds, so that one is confirmed."""
    config = {"learning_rate": 0.01, "batch_size": 16, "step_s": 0.02}
    points = folder / "points.jsonl"
    points.write_text("".join(json.dumps({**config, "seed": seed}) + "\n" for seed in range(NUM_TRIALS // 2)))
    return Sweep(
        name="scaled",
        task=f"{ROOT}/tests/cluster/waiting.py:build",
        space=config,
        points=str(points),
        precisions=("fp32", "bf16-mixed"),
        num_trials=NUM_TRIALS,
        max_epochs=EPOCHS,
        scheduler="fifo",
        checkpoint_every_s=0,
        route="default",
        confirm=Confirm(num_seeds=NUM_SEEDS),
        storage=str(folder),
        run_name="run",
    )


class Watch(threading.Thread):
    """Looks at nodes and journal, and ends the first node once trials report and there is a second."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._journal = folder / "run" / "journal"
        self.last: dict[str, Any] = {}
        self.first: dict[str, Any] | None = None
        self.killed, self.ended = "", False
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.2):
            self.look()

    def look(self) -> None:
        import ray

        nodes = [n for n in ray.nodes() if n["Alive"] and "node:__internal_head__" not in n["Resources"]]
        rows = [json.loads(line) for file in self._journal.glob("*.jsonl") for line in whole_lines(file)]
        stage = "ended" if self.ended else stage_of(rows)
        self.first = self.first or next(iter(nodes), None)
        if len(nodes) == 2 and not self.killed and sum(row["kind"] == "report" for row in rows) >= 20:
            self.killed = self.first["NodeID"]
            power_off(self.first)
        seen = {"stage": stage, "nodes": sorted(node["NodeID"][-5:] for node in nodes), "killed": self.killed[-5:]}
        if seen != self.last:
            self.last = seen
            print(json.dumps({**seen, "at": round(time.monotonic(), 1)}), flush=True)


def whole_lines(file: Path) -> list[str]:
    return file.read_text().split("\n")[:-1]


def stage_of(rows: list[dict[str, Any]]) -> str:
    """Of the sweep: in confirm, whether pairs are timed or full runs made."""
    status = {row["trial_id"]: row["status"] for row in rows if row["kind"] == "trial" and "status" in row}
    if sum(name.startswith("search") and status[name] != "running" for name in status) < NUM_TRIALS:
        return "search" if any(name.startswith("search") for name in status) else "probe"
    if not any(row["kind"] == "timing" for row in rows):
        return "timing"
    confirmed = sum(name.startswith("confirm") and status[name] != "running" for name in status)
    return "runs" if confirmed < NUM_CONFIRMED else "late timing"


def power_off(node: dict[str, Any]) -> None:
    """Ends a node's processes all at once."""
    import psutil

    (raylet,) = (
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "raylet"
        and any(node["RayletSocketName"] in word for word in process.info["cmdline"])
    )
    raylet.suspend()
    for process in [*raylet.children(recursive=True), raylet]:
        os.kill(process.pid, signal.SIGKILL)


def main(folder: Path) -> None:
    import ray

    from sweeps import run

    with autoscaling(max_workers=2, idle_minutes=0.05, head_cpus=0) as address:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
        watch = Watch(folder)
        watch.look()
        watch.start()
        print(sorted(run(declare(folder)).trials["trial_id"]), flush=True)
        watch.ended = True
        deadline = time.monotonic() + 40
        while watch.last["nodes"] or watch.last["stage"] != "ended":
            assert time.monotonic() < deadline, watch.last
            time.sleep(0.2)
        watch.over.set()
        watch.join()
        ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
