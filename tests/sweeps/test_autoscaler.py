"""Nodes that an autoscaler may start: by hand, and on Ray's own autoscaler with nodes that are processes here."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_provider
import nodes
import pytest

from analysis import load
from sweeps import Sweep, SweepError
from sweeps.engine.autoscaler import node_types
from sweeps.engine.cluster import resources_of

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
HEAD = {"CPU": 1.0}
KINDS = [{"CPU": 2.0}, {"CPU": 16.0, "GPU": 8.0}]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_workers": 3, "available_node_types": {"a": {"resources": {"CPU": 2}}}}, [{"CPU": 2}]),
        ({"available_node_types": {"a": {"resources": {"CPU": 2}, "max_workers": 0}}}, []),
        ({"max_workers": 0, "available_node_types": {"a": {"resources": {"CPU": 2}, "max_workers": 1}}}, []),
        ({"head_node_type": "a", "available_node_types": {"a": {"resources": {"CPU": 2}}}}, []),
        ({"head_node_type": "a", "available_node_types": {"a": {"resources": {}, "max_workers": 1}}}, [{}]),
        ({}, []),
    ],
)
def test_node_types_by_hand(config: dict, expected: list):
    assert node_types(config) == expected


def sweep(**asked: object) -> Sweep:
    return Sweep(name="s", task="m:f", space={}, **asked)


@pytest.mark.parametrize(
    ("asked", "per_trial", "slots", "exclusive"),
    [
        ({}, (1, 1), 8, {"num_cpus": 1, "num_gpus": 1}),
        ({"gpus_per_trial": 0, "cpus_per_trial": 2}, (2, 0), 1, {"num_cpus": 2, "num_gpus": 0}),
        ({"gpus_per_trial": 4, "cpus_per_trial": 2}, (2, 4), 2, {"num_cpus": 2, "num_gpus": 4}),
    ],
)
def test_a_trial_may_wait_for_a_node_of_the_autoscaler(asked: dict, per_trial: tuple, slots: int, exclusive: dict):
    found = resources_of(sweep(**asked), [HEAD], lambda: KINDS)
    assert (found.num_cpus, found.num_gpus) == per_trial
    assert (found.slots, found.exclusive) == (slots, exclusive)
    assert "16 CPUs and 8 GPUs" in found.waits_for


def test_a_trial_waits_for_nothing_where_a_node_can_run_it():
    found = resources_of(sweep(gpus_per_trial=0), [HEAD, HEAD], lambda: pytest.fail("asked for nothing"))
    assert (found.slots, found.waits_for) == (2, "")


def test_a_trial_waits_where_nobody_knows_which_nodes_may_come():
    found = resources_of(sweep(gpus_per_trial=2), [HEAD], lambda: None)
    assert (found.slots, found.exclusive) == (1, {"num_cpus": 1, "num_gpus": 2})
    assert "no node has the 1 CPUs and 2 GPUs of a trial" in found.waits_for
    assert resources_of(sweep(), [HEAD], lambda: None).num_gpus == 0


def test_what_neither_a_node_nor_the_autoscaler_has_is_refused():
    with pytest.raises(SweepError) as refused:
        resources_of(sweep(gpus_per_trial=9), [HEAD, HEAD], lambda: KINDS)
    assert "there are: 2 x 1 CPUs and 0 GPUs;" in str(refused.value)
    assert "the autoscaler may start: 2 CPUs and 0 GPUs, 16 CPUs and 8 GPUs" in str(refused.value)


@pytest.fixture
def autoscaling() -> Iterator[str]:
    """The address of a Ray of its own: a head with one CPU, and an autoscaler that may start a node with two."""
    with fake_provider.autoscaling(max_workers=1, idle_minutes=5, head_cpus=1) as address:
        yield address


KNOWN = """
import sys, time, ray
from ray._private.state import state
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig
from sweeps.engine.autoscaler import startable_nodes

ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(startable_nodes())
print(ray.get(ray.remote(num_cpus=2)(startable_nodes).remote()))  # on the node that is not the head
groups = [NodeGroupConfig(resources={"CPU": 4}, max_count=-1), NodeGroupConfig(resources={"CPU": 5}, max_count=0)]
report = ClusterConfig(node_group_configs=groups).SerializeToString()
GcsClient(address=ray.get_runtime_context().gcs_address).report_cluster_config(report)
print(startable_nodes())
"""


@pytest.mark.ray
def test_a_sweep_starts_the_node_that_it_needs_and_is_refused_where_there_is_none(autoscaling: str, tmp_path: Path):
    environment = os.environ | {"RAY_ADDRESS": autoscaling, "RAY_AUTH_MODE": "disabled"}

    def command(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(map(str, words)), env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    words = [BIN / "ampsweep", "run", f"{HERE / 'tasks_that_fail.py'}:build", "--precisions", "fp32", "--num-trials", 1]
    words += ["--stage", "search", "--max-epochs", 1, "--storage", tmp_path, "--run-name", "r", "--cpus-per-trial"]
    refused = command(*words, 3)
    assert refused.returncode == 2
    assert "there are: 1 CPUs and 0 GPUs; the autoscaler may start: 2 CPUs and 0 GPUs" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
    done = command(*words, 2)
    assert done.returncode == 0, done.stderr
    assert "no node has the 2 CPUs and 0 GPUs of a trial: waits for one of 2 CPUs and 0 GPUs" in done.stdout
    assert list(load(tmp_path / "r").trials["status"]) == ["completed"] * 2
    known = command(sys.executable, "-c", KNOWN, autoscaling)
    assert known.stdout.splitlines() == [
        "[{'CPU': 2, 'object_store_memory': 80000000}]",
        "[{'CPU': 2, 'object_store_memory': 80000000}]",
        "[{'CPU': 4}]",
    ], known.stderr


@pytest.mark.cluster
@pytest.mark.timeout(290)
@pytest.mark.skipif(nodes.why_not() is not None, reason=str(nodes.why_not()))
def test_nodes_come_for_a_sweep_are_replaced_go_where_it_confirms_and_go_when_it_ends(tmp_path: Path):
    ended = nodes.run_alone("tests.sweeps.scaling", tmp_path, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    seen = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert (seen[0]["stage"], seen[0]["nodes"]) == ("probe", [])
    assert max(len(each["nodes"]) for each in seen) == 2
    killed = seen[-1]["killed"]
    assert killed
    later = seen[next(index for index, each in enumerate(seen) if each["killed"]) :]
    gone = next(index for index, each in enumerate(later) if killed not in each["nodes"])
    assert len(later[gone]["nodes"]) == 1
    assert any(each["stage"] == "search" and len(each["nodes"]) == 2 for each in later[gone:])  # replaced
    assert any(len(each["nodes"]) == 1 for each in seen if each["stage"] == "timing")  # let go meanwhile
    assert any(len(each["nodes"]) == 2 for each in seen if each["stage"] == "runs")  # and asked for again
    assert (seen[-1]["stage"], seen[-1]["nodes"]) == ("ended", [])
    check_rows(tmp_path / "run")


def check_rows(folder: Path) -> None:
    """Every trial ended well, and every epoch of it is in the journal once."""
    results = load(folder)
    assert (results.trials["status"] == "completed").all(), results.trials[["trial_id", "status", "status_reason"]]
    assert results.trials["stage"].value_counts().to_dict() == {"search": 16, "confirm": 6, "probe": 2}
    assert (results.timings["status"] == "completed").all()
    written = [json.loads(line) for file in (folder / "journal").iterdir() for line in file.read_text().splitlines()]
    reports = [(row["trial_id"], row["epoch"]) for row in written if row["kind"] == "report"]
    trained = results.trials.loc[results.trials["stage"] != "probe", "trial_id"]
    assert sorted(reports) == sorted((trial, epoch) for trial in trained for epoch in range(1, 41))
