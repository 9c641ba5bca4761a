"""Whether nodes see the storage: those of the beginning, and those that come for the probe."""

from pathlib import Path
from typing import Any

import pytest
import ray
from rich.console import Console

from sweeps import Sweep, SweepError
from sweeps.engine import device_types, shared, stages
from sweeps.engine.cluster import Resources
from sweeps.engine.folders import Home
from sweeps.engine.journal import Journal
from sweeps.engine.progress import Progress
from sweeps.engine.recorder import Recorder
from sweeps.engine.resume import Past
from sweeps.engine.shared import check_shared
from trainables.loading import find_task


class Nodes:
    """A cluster whose nodes see the storage or not."""

    def __init__(self) -> None:
        self.sight: dict[str, bool] = {"head": True}
        self.asked: list[str] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": name, "Alive": True, "NodeManagerHostname": f"{name}.lan"} for name in self.sight]

    def start(self, function: object, node_id: str, *arguments: object) -> str:
        self.asked.append(node_id)
        return node_id

    def answers(self, tasks: list[str], seconds: float) -> list[bool]:
        return [self.sight[task] for task in tasks]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    nodes = Nodes()
    monkeypatch.setattr(ray, "nodes", nodes.nodes)
    monkeypatch.setattr(shared, "start_on", nodes.start)
    monkeypatch.setattr(shared, "answers_of", nodes.answers)
    return nodes


def test_nodes_look_once_each_and_one_that_does_not_see_the_storage_is_named(cluster: Nodes, tmp_path: Path) -> None:
    home = Home(tmp_path)
    known = check_shared(home)
    assert not cluster.asked  # the driver's own
    cluster.sight["first"] = True
    known |= check_shared(home, known)
    check_shared(home, known)
    assert cluster.asked == ["first"]
    cluster.sight["second"] = False
    with pytest.raises(SweepError, match=r"^storage: must be the same on all nodes \(second\.lan cannot read"):
        check_shared(home, known)
    assert not list(tmp_path.iterdir())


def test_a_node_that_comes_for_the_probe_looks_before_a_trial_starts(
    cluster: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where an autoscaler starts from none."""

    def probe(*arguments: object) -> Any:
        cluster.sight["came"] = False
        return {"X": {"fp32": "default"}}, "val_loss", "min"

    monkeypatch.setattr(device_types, "device_types", lambda resources: [])
    monkeypatch.setattr(stages._Run, "_probe", probe)
    sweep = Sweep(name="s", task="trainables.tasks.digits:build", space={}, num_trials=1)
    with Journal(tmp_path / "r") as journal:
        recorder, home = Recorder(journal, Progress(Console(quiet=True))), Home(tmp_path / "r")
        this = stages._Run(sweep, find_task(sweep.task), home, 1, None, Past(), recorder)
        with pytest.raises(SweepError, match=r"^storage: must be the same on all nodes \(came\.lan"):
            this.stages(Resources(1, 0, 1, 1), check_shared(home))
