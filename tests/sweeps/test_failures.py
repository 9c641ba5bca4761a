"""What a dead process is called, and how many trials fit on a cluster."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions
from ray.core.generated.common_pb2 import ActorDiedErrorContext

from sweeps import Sweep, SweepError
from sweeps.engine.cluster import resources_of
from sweeps.engine.controller import _Trial
from sweeps.engine.failures import MAX_NODES, Losses, MemoryKill, Misplaced, died, failure
from trainables.meeting import WorkerLost


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (
            MemoryKill(error_msg="Memory on the node (IP: x) was 3.80GB used / 23.54GB limit (0.16); and\nmore"),
            "out_of_memory",
            "3.80GB used / 23.54GB limit",
        ),
        (ray.exceptions.OutOfMemoryError("killed"), "out_of_memory", "low on memory"),
        (ray.exceptions.ActorDiedError(), "lost", "went away"),
        (ray.exceptions.WorkerCrashedError(), "lost", "went away"),
        (ray.exceptions.NodeDiedError("gone"), "lost", "gone"),
        (ValueError("planted"), "errored", "ValueError: planted"),
    ],
)
def test_failures_have_a_status_and_a_reason_of_one_line(error: BaseException, status: str, reason: str):
    found, why = failure(error)
    assert found == status
    assert reason in why
    assert "\n" not in why


GONE = "The actor died because its node has died. Node Id: 00\n\tthe actor's node was terminated unexpectedly: x"
CRASHED = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"


def actor_died(why: str) -> ray.exceptions.ActorDiedError:
    return ray.exceptions.ActorDiedError(cause=ActorDiedErrorContext(error_message=why, actor_id=b"0" * 16))


def task_failed(cause: BaseException) -> ray.exceptions.RayTaskError:
    return ray.exceptions.RayTaskError("f", "", cause)


OF_NODE = [
    actor_died(GONE),
    ray.exceptions.ActorUnavailableError("rpc error: connection refused", None),
    ray.exceptions.NodeDiedError("Task failed because the node it was running on is dead or unavailable."),
    task_failed(WorkerLost("worker 2 of 2 went away: ActorUnavailableError: rpc error")),
    task_failed(WorkerLost(f"worker 2 of 2 went away: ActorDiedError: {GONE}")),
]
OF_PROCESS = [
    actor_died(CRASHED),
    ray.exceptions.WorkerCrashedError(),
    MemoryKill(error_msg="Memory on the node (IP: x) was 3.80GB used / 23.54GB limit"),
    task_failed(WorkerLost(f"worker 2 of 2 went away: ActorDiedError: {CRASHED}")),
    task_failed(ValueError("planted NodeDiedError")),
]


@pytest.mark.parametrize("error", OF_NODE)
def test_a_trial_goes_on_as_often_as_its_node_goes_while_it_gets_further(error: BaseException):
    losses = Losses()
    assert all(losses.goes_on(error, reports) for reports in range(100))
    assert losses.goes_on(OF_PROCESS[0], 99)
    assert [losses.goes_on(error, reports) for reports in [98, 99] * 5] == [True] * 9 + [False]


@pytest.mark.parametrize("error", OF_PROCESS)
def test_a_trial_goes_on_once_where_its_process_alone_dies(error: BaseException):
    losses = Losses()
    assert [losses.goes_on(error, reports) for reports in (1, 2)] == [True, False]


def test_a_trial_for_which_only_devices_without_its_precision_come_ends_as_unsupported():
    """As where an autoscaler starts one node after the other of a type that does not have it."""
    misplaced, losses = Misplaced("no such units"), Losses()
    assert [losses.goes_on(misplaced) for _ in range(MAX_NODES + 1)] == [True] * MAX_NODES + [False]
    assert failure(misplaced) == ("unsupported", "no such units")


def test_the_controller_has_a_trial_go_on_when_its_node_goes_for_the_third_time(tmp_path: Path):
    storage = SimpleNamespace(trial_driver_staging_path=str(tmp_path))
    trial: Any = _Trial(type("Nothing", (), {}), 0, max_failures=1, storage=storage)
    for error in [OF_NODE[0], OF_NODE[1], OF_NODE[2], OF_PROCESS[0]]:
        trial.handle_error(error)
        assert trial.should_recover()
    trial.handle_error(OF_PROCESS[0])
    assert not trial.should_recover()


def sweep(**changes: object) -> Sweep:
    return Sweep(name="s", task="m:f", space={}, **changes)


NODES = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 4.0}]


@pytest.mark.parametrize(
    ("asked", "nodes", "gpus", "slots", "exclusive"),
    [
        ({}, NODES[1:], 0, 4, {"num_cpus": 4.0, "num_gpus": 0}),
        ({}, NODES, 1, 2, {"num_cpus": 1, "num_gpus": 1}),
        ({"gpus_per_trial": 0.25}, NODES, 0.25, 8, {"num_cpus": 1, "num_gpus": 1}),
        ({"gpus_per_trial": 0.25, "cpus_per_trial": 4}, NODES, 0.25, 4, {"num_cpus": 4, "num_gpus": 1}),
        ({"gpus_per_trial": 0}, NODES, 0, 20, {"num_cpus": 4.0, "num_gpus": 0}),
        ({"gpus_per_trial": 0, "cpus_per_trial": 0.5}, NODES[1:], 0, 8, {"num_cpus": 4.0, "num_gpus": 0}),
        ({"workers_per_trial": 2, "cpus_per_trial": 2}, NODES[1:], 0, 2, {"num_cpus": 2.0, "num_gpus": 0}),
        ({"workers_per_trial": 3, "gpus_per_trial": 0}, NODES[1:], 0, 4, {"num_cpus": 1.3333, "num_gpus": 0}),
        ({"workers_per_trial": 2, "cpus_per_trial": 8}, NODES[1:] * 3, 0, 1, {"num_cpus": 4.0, "num_gpus": 0}),
        ({"workers_per_trial": 2}, NODES, 2, 1, {"num_cpus": 0.5, "num_gpus": 1}),
        ({"workers_per_trial": 2, "gpus_per_trial": 4}, NODES[:1] * 2, 4, 1, {"num_cpus": 0.5, "num_gpus": 2}),
    ],
)
def test_resources_by_hand(asked: dict, nodes: list, gpus: float, slots: int, exclusive: dict):
    found = resources_of(sweep(**asked), nodes)
    assert (found.num_gpus, found.slots, found.exclusive) == (gpus, slots, exclusive)


@pytest.mark.parametrize(
    "asked", [{"cpus_per_trial": 17}, {"gpus_per_trial": 3}, {"cpus_per_trial": 5, "gpus_per_trial": 3}]
)
def test_what_no_node_has_is_refused_with_what_they_have(asked: dict):
    with pytest.raises(SweepError, match="16 CPUs and 2 GPUs"):
        resources_of(sweep(**asked), NODES)


def test_workers_that_do_not_all_fit_are_refused_and_those_that_do_may_lie_on_several_nodes():
    nodes = [{"CPU": 2.0}, {"CPU": 2.0}]
    assert resources_of(sweep(workers_per_trial=4, cpus_per_trial=4), nodes).slots == 1
    with pytest.raises(SweepError, match=r"workers_per_trial: must all fit .*2 x 2 CPUs.*'5 workers of 1 CPUs and 0"):
        resources_of(sweep(workers_per_trial=5, cpus_per_trial=5), nodes)
    with pytest.raises(SweepError, match=r"'2 workers of 3 CPUs"):
        resources_of(sweep(workers_per_trial=2, cpus_per_trial=6), nodes)
    waiting = resources_of(sweep(workers_per_trial=5, cpus_per_trial=5), nodes, lambda: nodes[:1])
    assert (waiting.slots, waiting.exclusive_cpus) == (1, 1.0)
    assert "5 workers of 1 CPUs" in waiting.waits_for


def test_the_loss_of_one_of_several_workers_is_the_loss_of_the_trial():
    error = ray.exceptions.RayTaskError("f", "", WorkerLost("worker 2 of 2 went away:\nActorDiedError"))
    assert failure(error) == ("lost", "worker 2 of 2 went away: ActorDiedError")
    assert died(error)
    assert not died(ray.exceptions.RayTaskError("f", "", ValueError("planted")))
    killed = ray.exceptions.RayTaskError("f", "", WorkerLost("worker 2 of 2 went away: OutOfMemoryError: x"))
    assert failure(killed)[0] == "out_of_memory"
