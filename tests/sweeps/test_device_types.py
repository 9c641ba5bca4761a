"""Device types and what keeps trials to them, by hand; on nodes in ``test_nodes.py``."""

import re
from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from sweeps import Sweep, SweepError
from sweeps.engine import confirm
from sweeps.engine.cluster import Resources, resources_of
from sweeps.engine.confirm_plan import Place, find_places, lacks_arms, plan_places
from sweeps.engine.device_types import DeviceType, check_device, check_fit, only_on, resources_on, ruling_out, search_on
from sweeps.engine.failures import Misplaced, died, failure, may_go_on
from sweeps.engine.probe import unprobed, usable_anywhere
from sweeps.engine.remote import group_of
from trainables.cpu import cpu_name


def nodes(*names: str, cpus: float = 8, **resources: float) -> tuple[dict[str, Any], ...]:
    return tuple({"NodeID": name, "Resources": {"CPU": cpus, **resources}} for name in names)


H100 = DeviceType("NVIDIA H100", nodes("a", "b", cpus=32, GPU=8, **{"accelerator_type:H100": 1}))
PCIE = DeviceType("NVIDIA H100 PCIe", nodes("c", cpus=16, GPU=2, **{"accelerator_type:H100": 1}))
A10G = DeviceType("NVIDIA A10G", nodes("d", "e", cpus=4, GPU=1, **{"accelerator_type:A10G": 1}))
XEON = DeviceType("Xeon", nodes("f", "g"))
EPYC = DeviceType("EPYC", nodes("h", cpus=64))
H100_ONLY = {"resources": {"accelerator_type:H100": 0.001}}


def nowhere_but(*ruled_out: str) -> dict[str, Any]:
    return {"label_selector": {"ray.io/node-id": f"!in({','.join(ruled_out)})"}}


@pytest.mark.parametrize(
    ("kept", "among", "expected"),
    [
        ([H100], [H100], {}),
        ([H100, A10G], [H100, A10G], {}),
        ([H100], [A10G, H100], H100_ONLY),
        ([H100], [A10G, H100, PCIE], nowhere_but("d", "e", "c")),  # two models that Ray calls alike
        ([H100, PCIE], [A10G, H100, PCIE], nowhere_but("d", "e")),
        ([EPYC], [EPYC, XEON], nowhere_but("f", "g")),
    ],
)
def test_what_keeps_trials_to_device_types(kept: list, among: list, expected: dict):
    assert only_on(kept, among) == expected


def test_a_device_type_has_its_own_slots_and_its_own_smallest_node():
    both = Resources(1, 0.5, 36, 4)
    on_h100 = resources_on(H100, [A10G, H100], both)
    assert (on_h100.slots, on_h100.exclusive) == (32, {"num_cpus": 1, "num_gpus": 1, **H100_ONLY})
    assert on_h100.per_worker == {"num_cpus": 1, "num_gpus": 0.5, **H100_ONLY}
    assert resources_on(A10G, [A10G, H100], both).slots == 4
    on_xeon = resources_on(XEON, [EPYC, XEON], Resources(2, 0, 40, 8))
    assert (on_xeon.slots, on_xeon.exclusive) == (8, {"num_cpus": 8, "num_gpus": 0, **nowhere_but("h")})
    assert resources_on(EPYC, [EPYC, XEON], Resources(2, 0, 40, 8)).exclusive["num_cpus"] == 64


@pytest.mark.parametrize(
    ("gpus", "slots"), [(0.5, 16), (0.25, 32), (0.1, 80), (0.3, 24), (0.4, 16), (0.6, 8), (1, 8), (3, 2)]
)
def test_no_share_of_a_gpu_spans_two(gpus: float, slots: int):
    sweep = Sweep(name="s", task="m:f", space={}, gpus_per_trial=gpus, cpus_per_trial=0.1)
    assert resources_of(sweep, [{"CPU": 64.0, "GPU": 8.0}]).slots == slots


def test_nodes_are_ruled_out_beside_those_that_were():
    assert ruling_out(["x"], {}) == nowhere_but("x")
    assert ruling_out(["x", "y"], nowhere_but("d", "e")) == nowhere_but("d", "e", "x", "y")
    assert ruling_out(["x"], H100_ONLY) == {**H100_ONLY, **nowhere_but("x")}


def two_workers(*nodes: Any, gpus: float = 2, can_grow: bool = False) -> Resources:
    return replace(resources_of(declare(2, gpus), [node["Resources"] for node in nodes]), can_grow=can_grow)


def declare(workers: int, gpus: float) -> Sweep:
    return Sweep(name="s", task="m:f", space={}, workers_per_trial=workers, gpus_per_trial=gpus)


ONE_A10G = DeviceType("NVIDIA A10G", A10G.nodes[:1])
ONE_H100 = DeviceType("NVIDIA H100", nodes("a", cpus=4, GPU=1, **{"accelerator_type:H100": 1}))
SMALL = DeviceType("NVIDIA A10G", ONE_A10G.nodes, fits=False)
A10G_ONLY = {"resources": {"accelerator_type:A10G": 0.001}}


@pytest.mark.parametrize(
    ("able", "among", "expected"),
    [
        ([H100, PCIE], [H100, PCIE], {"strategy": "STRICT_PACK"}),  # on whichever node has room for both workers
        ([H100, PCIE], [A10G, H100, PCIE], {**nowhere_but("d", "e"), "strategy": "STRICT_PACK"}),
        ([A10G, H100], [A10G, H100], {**H100_ONLY, "strategy": "STRICT_PACK"}),  # no A10G node has two GPUs
        ([A10G, ONE_H100], [A10G, ONE_H100], A10G_ONLY),  # on two nodes of the only type that has two
        ([H100], [A10G, H100], H100_ONLY),
        ([H100], [H100], {}),
    ],
)
def test_workers_of_a_trial_are_of_one_device_type(able: list, among: list, expected: dict):
    resources = two_workers(*(node for each in among for node in each.nodes))
    assert search_on(able, among, resources) == expected
    group = group_of({**resources.per_worker, **expected}, 2)
    assert (group.get("strategy"), len(group["bundles"])) == (expected.get("strategy"), 2)
    assert search_on(able, among, Resources(1, 1, 1, 1)) == only_on(able, among)


def test_workers_that_fit_on_no_device_type_alone_are_refused():
    apart = two_workers(*ONE_A10G.nodes, *ONE_H100.nodes)
    assert apart.slots == 1  # on the nodes of both together
    check_fit([SMALL, H100], apart)
    check_fit([], apart)
    with pytest.raises(
        SweepError, match=r"^workers_per_trial: must all fit on one device type \(there are NVIDIA A10G"
    ):
        check_fit([SMALL], apart)


def test_a_device_type_without_room_for_a_trial_is_neither_probed_nor_confirmed_on():
    resources = two_workers(*SMALL.nodes, *H100.nodes)
    assert unprobed([SMALL, H100], {}) == [H100]
    places = find_places([SMALL, H100], {name: {"fp32": "default"} for name in (SMALL.name, H100.name)}, resources)
    assert [(place.device, place.resources.placement) for place in places] == [("NVIDIA H100", H100_ONLY)]


USABLE = {"NVIDIA H100": {"fp32": "default", "fp8-rowwise": "default"}, "NVIDIA A10G": {"fp32": "cublaslt"}}


def test_what_has_still_to_be_probed():
    assert unprobed([], {}) == [None]
    assert unprobed([], USABLE) == []
    assert unprobed([H100, A10G], {}) == [H100, A10G]
    assert unprobed([H100, PCIE, A10G], USABLE) == [PCIE]
    assert usable_anywhere(USABLE) == ["fp32", "fp8-rowwise"]


def test_each_device_type_is_a_place_of_its_own():
    resources = Resources(1, 1, 18, 4)
    assert find_places([], USABLE, resources) == [Place("NVIDIA H100", resources, USABLE["NVIDIA H100"])]
    (alone,) = find_places([H100], USABLE, resources)
    assert (alone.device, alone.resources.placement, alone.resources.slots) == ("NVIDIA H100", {}, 16)
    (alone,) = find_places([A10G], USABLE, resources)
    assert (alone.device, alone.routes, alone.resources.slots) == ("NVIDIA A10G", USABLE["NVIDIA A10G"], 2)
    two = find_places([A10G, H100, PCIE], USABLE, resources)
    assert [place.device for place in two] == ["NVIDIA A10G", "NVIDIA H100"]
    assert two[0].resources.placement == {"resources": {"accelerator_type:A10G": 0.001}}
    sweep = Sweep(name="s", task="m:f", space={}, precisions=("fp32", "fp8-rowwise"), compile=True)
    assert [lacks_arms(place, sweep) for place in two] == [True, False]


def test_a_timing_has_the_whole_node_that_came_when_nobody_knew_which_would():
    waiting = resources_of(Sweep(name="s", task="m:f", space={}), [{"CPU": 0}], lambda: None)
    (place,) = find_places([XEON], {"Xeon": {"fp32": "default"}}, waiting)
    assert place.resources.exclusive == {"num_cpus": 8, "num_gpus": 0}


def test_the_same_blocks_run_at_each_place_in_its_precisions_under_names_of_their_own():
    resources = Resources(1, 1, 1, 1)
    places = [Place(device, resources, USABLE[device]) for device in ("NVIDIA A10G", "NVIDIA H100")]
    trials = plan_places(places, USABLE, [{"width": 8}], num_seeds=2, sweep_seed=0, used_seeds=())
    assert len({trial.trial_id for trial in trials}) == len(trials) == 6
    by_device = {device: [t for t in trials if t.device == device] for device in USABLE}
    assert [t.precision for t in by_device["NVIDIA A10G"]] == ["fp32", "fp32"]
    assert {t.block_id for t in by_device["NVIDIA A10G"]} == {t.block_id for t in by_device["NVIDIA H100"]}
    assert all(t.trial_id.endswith("-fp32-nvidia-a10g") for t in by_device["NVIDIA A10G"])
    # The type that was probed first is the run's first, in whichever order they are looked at later.
    assert {t.trial_id.rpartition(f"{t.seed}-")[2] for t in by_device["NVIDIA H100"]} == {"fp32", "fp8-rowwise"}


@pytest.mark.parametrize("name", ["NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", ""])
def test_a_run_on_a_device_of_its_type_stays(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sweeps.engine.device_types.own_device", lambda use_gpus: "NVIDIA A100-SXM4-80GB")
    check_device(name, use_gpus=True)
    monkeypatch.setattr("sweeps.engine.device_types.own_device", lambda use_gpus: "")  # no driver tells
    check_device("H100", use_gpus=True)


def test_a_run_on_a_device_of_another_type_has_to_go_elsewhere():
    with pytest.raises(Misplaced, match=f"^must run on Xeon, and came to {re.escape(cpu_name())}$") as error:
        check_device("Xeon", use_gpus=False)
    raised = RayTaskError("f", "a traceback\nof lines", error.value).as_instanceof_cause()
    assert may_go_on(raised)
    assert not died(raised)
    assert failure(raised) == ("unsupported", str(error.value))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_process_with_gpus_is_kept_for_the_next_run_also_where_a_trial_has_several_workers(num_workers: int):
    """Ray ends a process after a task with GPUs, unless it is told not to."""
    here = resources_on(H100, [A10G, H100], Resources(num_workers, num_workers, 8, 4, num_workers=num_workers))
    task: Any = confirm._runs(here)._task
    assert (task._default_options["max_calls"], task._default_options["num_gpus"]) == (0, 1)
