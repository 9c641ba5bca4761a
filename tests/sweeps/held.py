"""A search on nodes whose GPUs are made up: python -m tests.sweeps.held FOLDER NODES GPUS TRIALS.

All is real but what a trial does: workers, Tune's controller, journal and rows. It trains nothing and imports no
PyTorch, so that many fit on a small machine; it holds its half GPU until all that is free is in use.
"""

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from trainables.adapters.ray_tune import TuneTrial

DEADLINE_S = 200


class Held(TuneTrial):
    """Reports where it runs, and ends only while every half GPU has a trial, or none is left to begin."""

    def setup(self, config: dict[str, Any]) -> None:
        if config:
            self._reports = reports(config["spec"]["trial_id"], **config["spec"]["config"])


def reports(trial_id: str, folder: str, slots: int, total: int, learning_rate: float) -> Iterator[Any]:
    from tests.sweeps.nodes import accelerator_here
    from trainables.report import TrialReport

    (gpu,) = ray.get_gpu_ids()
    report = TrialReport(trial_id, node=socket.gethostname(), device=accelerator_here())
    (Path(folder) / f"{trial_id}.began").touch()
    for epoch in range(1, 4):
        if epoch == 3:
            wait_for_my_turn(Path(folder), trial_id, slots, total)
            report.status = "completed"
        report.epoch, report.step, report.train_loss = epoch, epoch, learning_rate
        report.metrics = {"val_loss": 1 / epoch, "val_gpu": float(gpu), "val_process": float(os.getpid())}
        report.highest = report.lowest = dict(report.metrics)
        assert "torch" not in sys.modules
        yield report


def wait_for_my_turn(folder: Path, trial_id: str, slots: int, total: int) -> None:
    """Trials end one by one, each when those that have begun fill all slots again."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        with (folder / "turn").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            began, ended = (len(list(folder.glob(f"*.{what}"))) for what in ("began", "ended"))
            if began == min(total, ended + slots):
                (folder / f"{trial_id}.ended").touch()
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{began} trials have begun, {ended} have ended, and {slots} may run at once")
        time.sleep(0.1)


def main(folder: Path, num_nodes: int, num_gpus: int, num_trials: int) -> None:
    """Runs the search, and ends; results are in ``folder/run``."""
    from rich.console import Console

    from sweeps import Sweep, loguniform
    from sweeps.engine.cluster import connected
    from sweeps.engine.device_types import device_types, resources_on
    from sweeps.engine.endings import Endings
    from sweeps.engine.journal import Journal, write_declaration
    from sweeps.engine.progress import Progress
    from sweeps.engine.recorder import Recorder
    from sweeps.engine.tune import run_search
    from sweeps.engine.workers import Workers
    from sweeps.search.searchers import make_search
    from tests.sweeps.nodes import Nodes, say
    from trainables.loading import find_task
    from trainables.spec import Checkpoints

    nodes = Nodes()
    for index in range(num_nodes):
        accelerator = ("H100", "A10G")[index % 2]
        nodes.add(f"node{index}", num_cpus=2 * num_gpus, num_gpus=num_gpus, accelerator=accelerator)
    slots = 2 * num_nodes * num_gpus
    held = {"folder": str(folder), "slots": slots, "total": num_trials}
    sweep = Sweep(
        name="held",
        task="trainables.tasks.digits:build",
        space={**held, "learning_rate": loguniform(1e-4, 1e-2)},
        precisions=("fp32", "bf16-mixed"),
        num_trials=num_trials,
        max_epochs=3,
        scheduler="fifo",
        gpus_per_trial=0.5,
        storage=str(folder),
    )
    checkpoints = Checkpoints(str(folder / "checkpoints"), 60.0, "val_loss", "min")
    with Journal(folder / "run") as journal, Progress(Console()) as progress, connected(sweep) as resources:
        assert resources.slots == slots
        write_declaration(journal.folder, {**sweep.to_json(), "run_name": "run", "metric": "val_loss", "mode": "min"})
        search = make_search(sweep, sweep.precisions, checkpoints, {}, resources.slots)
        recorder = Recorder(journal, progress)
        with Workers(Held, resources) as workers:
            workers.start(min(num_trials, resources.slots))
            endings = Endings(recorder, checkpoints)
            run_search(sweep, find_task(sweep.task), search, (), resources, workers, {}, recorder, endings)
        types = device_types(resources)
        for each in types:
            say(device=each.name, slots=(there := resources_on(each, types, resources)).slots, ran=places(there))


def places(resources: Any) -> list[list[str]]:
    """Where runs go that are confirmed on a device type: the hosts of the workers of each, of one worker and of two."""
    from sweeps.engine.remote import Streams

    found = []
    for options, num_workers in ((resources.per_worker, 1), (resources.exclusive, 1), (resources.exclusive, 2)):
        with Streams(hosts, options, num_workers) as streams:
            for stream in [streams.start(num_workers) for _ in range(3)]:
                found.append([ray.get(host) for host in stream])
                streams.ended(stream)
    return found


def hosts(num_workers: int) -> Iterator[str]:
    from trainables.adapters.ray_team import in_bundle

    def host() -> str:
        return socket.gethostname()

    yield host()
    for index in range(1, num_workers):
        place = in_bundle(ray.util.get_current_placement_group(), index)
        yield ray.get(ray.remote(host).options(**place).remote())


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
