"""Each problem of rates, places and clusters: facts in, one finding out; and none where nothing is wrong."""

import dataclasses
from collections.abc import Iterable

import pytest

from sweeps.engine.doctor.cluster import device_type, exclusive
from sweeps.engine.doctor.facts import (
    Cluster,
    Finding,
    Gpu,
    Machine,
    Measured,
    Node,
    Storage,
    TorchBuild,
    Tracking,
    Unanswered,
)
from sweeps.engine.doctor.place_rules import storage_findings, tracking_findings
from sweeps.engine.doctor.rate_rules import rate_findings
from sweeps.engine.doctor.ray_rules import cluster_findings, no_cluster_findings, unreachable_findings
from sweeps.engine.doctor.report import Report, merged
from trainables.rates import FORMATS, MatrixRate

GIB = 2**30

SOUND = Machine(
    node="a",
    vendor="AuthenticAMD",
    instructions=("avx2", "avx512f", "avx512_bf16"),
    ray_cpus=64,
    versions={"python": "3.12.1", "torch": "2.13.0", "ray": "2.60.0"},
    gpus=(Gpu("NVIDIA H100"),),
    torch=TorchBuild("12.8", num_devices=1),
)

STORAGE = Storage("runs", "/data/runs", None, True, "ext4", 500 * GIB, 200 * GIB)


def problems(findings: Iterable[Finding]) -> list[Finding]:
    """Those with a problem, each of which must say what to do."""
    found = [finding for finding in findings if finding.problem]
    assert all(finding.remedy for finding in found)
    return found


def rates(threads: int = 64, kernels: dict[str, str] | None = None, **ratios: float) -> list[MatrixRate]:
    served = {"fp32": "oneDNN brg_matmul:avx512_core"} | (kernels or {})
    return [
        MatrixRate(name, "CPU X", threads, 1024, 1e11, 1.1e11, ratio, FORMATS[name], served.get(name))
        for name, ratio in {"fp32": 1.0, **ratios}.items()
    ]


def of_rates(measured: Iterable[MatrixRate], machine: Machine | None = SOUND) -> list[Finding]:
    return problems(rate_findings(Measured("CPU X", "a", tuple(measured)), machine))


def test_nothing_is_wrong_with_formats_that_gain():
    assert of_rates(rates(bf16=3.0, fp16=1.3)) == []


def test_a_hopeless_format_is_to_be_left_out():
    (finding,) = of_rates(rates(bf16=3.0, fp16=1 / 90))
    assert finding.problem == "fp16 products are 90 times slower than fp32 on CPU X with 64 threads"
    assert "leave fp16-mixed and fp16-true out" in finding.remedy


def test_a_format_is_judged_where_it_does_best():
    assert of_rates([*rates(64, bf16=0.1), *rates(1, bf16=2.0)]) == []


@pytest.mark.parametrize(("ratio", "word"), [(0.5, "slower"), (1.1, "hardly faster")])
def test_a_format_without_gain_is_told(ratio: float, word: str):
    (finding,) = of_rates(rates(bf16=ratio))
    assert f"{word} than fp32" in finding.problem
    assert "bf16-mixed and bf16-true" in finding.remedy


def test_a_label_that_does_not_hold_is_told():
    fp32 = dataclasses.replace(rates()[0], ran="tf32", device="NVIDIA H100", num_threads=0)
    (finding,) = of_rates([fp32])
    assert finding.problem == "products asked for in fp32 run in tf32 on NVIDIA H100"
    assert "NVIDIA_TF32_OVERRIDE" in finding.remedy


def test_an_unsteady_device_is_told():
    (finding,) = of_rates([dataclasses.replace(rates()[0], flops_per_s=1e11, best_flops_per_s=4e11)])
    assert "took 4 times as long as the fastest" in finding.problem


@pytest.mark.parametrize("timed_out", [True, False])
def test_a_device_that_fails_stops_a_sweep_and_a_busy_one_does_not(timed_out: bool):
    measured = Measured("NVIDIA H100", "b", error=Unanswered("that is why", timed_out))
    (finding,) = problems(rate_findings(measured, None))
    assert finding.problem == "NVIDIA H100 could not be measured: that is why"
    assert finding.fatal is not timed_out


@pytest.mark.parametrize(
    ("kernels", "changed", "problem"),
    [
        (
            {"bf16": "oneDNN brg_matmul:avx512_core_bf16"},
            {"instructions": ("amx_bf16",)},
            "has AMX, but BF16 products run",
        ),
        ({"bf16": "oneDNN brg_matmul:avx10_1_512_amx"}, {"instructions": ("amx_bf16",)}, None),
        ({"fp32": "MKL SGEMM"}, {}, "MKL, whose FP32 kernels are slow on AMD"),
        ({"fp32": "MKL SGEMM"}, {"vendor": "GenuineIntel"}, None),
    ],
)
def test_a_library_that_does_not_suit_the_cpu_is_told(kernels: dict[str, str], changed: dict, problem: str | None):
    found = of_rates(rates(kernels=kernels, bf16=3.0), dataclasses.replace(SOUND, **changed))
    assert len(found) == (problem is not None)
    assert all(problem in finding.problem for finding in found)


@pytest.mark.parametrize(
    ("changed", "problem", "fatal"),
    [
        ({}, None, False),
        ({"error": "Permission denied"}, "/data/runs cannot be used (Permission denied)", True),
        ({"free_bytes": 3 * GIB}, "storage is nearly full: 3 GiB of 500 GiB free", False),
        ({"free_bytes": 2**20}, "storage is nearly full: 1 MiB of 500 GiB free", True),
        ({"can_lock": False}, "has no locks", True),
        ({"file_system": "tmpfs"}, "lies in memory, and is gone after a restart", False),
        ({"file_system": "overlay"}, "lies in a container's own layer", False),
        ({"unseen_by": ("b", "c")}, "is not the same on all nodes, so that a sweep refuses it", True),
    ],
)
def test_a_problem_of_storage(changed: dict[str, object], problem: str | None, fatal: bool):
    found = problems(storage_findings(dataclasses.replace(STORAGE, **changed)))
    assert len(found) == (problem is not None)
    for finding in found:
        assert problem in finding.problem
        assert "--storage" in finding.remedy or "delete" in finding.remedy
        assert finding.fatal is fatal
        assert finding.nodes == changed.get("unseen_by", ())


@pytest.mark.parametrize(
    ("tracking", "problem"),
    [
        (Tracking("0.31", "online", "api.wandb.ai", "WANDB_API_KEY"), None),
        (Tracking("0.31", "offline", "api.wandb.ai"), None),
        (Tracking(None), "not installed"),
        (Tracking("0.31", "online", "api.wandb.ai"), "nobody is logged in to api.wandb.ai"),
        (Tracking("0.31", "online", "api.wandb.ai", error="/x: it does not parse"), "/x: it does not parse"),
    ],
)
def test_a_problem_of_tracking_never_stops_a_sweep(tracking: Tracking, problem: str | None):
    found = problems(tracking_findings(tracking))
    assert len(found) == (problem is not None)
    assert all(problem in finding.problem and not finding.fatal for finding in found)


def cluster(available: dict[str, float] | None = None, **changed: object) -> Cluster:
    """A sound node and another one."""
    resources = {"CPU": 64.0, "GPU": 1.0, "memory": 200.0 * GIB, "accelerator_type:H100": 1.0}
    other = dataclasses.replace(Node("id-b", "b", resources, dataclasses.replace(SOUND, node="b")), **changed)
    free = {"CPU": 128.0, "GPU": 2.0} if available is None else available
    return Cluster("10.0.0.1:6379", (Node("id-a", "a", resources, SOUND), other), free)


def of_cluster(*arguments: object, **changed: object) -> list[Finding]:
    return problems(cluster_findings(cluster(*arguments, **changed), SOUND))


def test_nothing_is_wrong_with_a_sound_cluster():
    assert of_cluster() == []
    values = [finding.value for finding in cluster_findings(cluster(), SOUND)]
    assert values[0] == "10.0.0.1:6379, 2 nodes, 128 CPUs, 2 GPUs"
    assert values[2] == "64 CPUs, 1 GPU, H100, 200 GiB memory"


def other_versions(**versions: str | None) -> Machine:
    return dataclasses.replace(SOUND, versions=SOUND.versions | versions)


@pytest.mark.parametrize(
    ("changed", "problem", "remedy", "fatal"),
    [
        (
            {"machine": other_versions(torch="2.12.0")},
            "torch is 2.12.0 there, but 2.13.0 at the driver",
            "same torch",
            False,
        ),
        ({"machine": other_versions(ray=None)}, "ray is not installed there, but 2.60.0", "same ray", False),
        (
            {"machine": None, "error": Unanswered("ModuleNotFoundError: No module named 'trainables'")},
            "ampsweep does not run there (ModuleNotFoundError: No module named 'trainables')",
            "--working-dir",
            True,
        ),
        ({"machine": None, "error": Unanswered("no answer within 60 s", True)}, "no answer", "see ray status", False),
        ({"resources": {"CPU": 64.0}}, "Ray counts 0 of 1 GPU", "--num-gpus 1", False),
        (
            {"resources": {"CPU": 128.0, "GPU": 1.0}},
            "Ray counts 128 CPUs, but the machine has 64 CPUs",
            "--num-cpus 64",
            False,
        ),
    ],
)
def test_a_problem_of_a_node(changed: dict[str, object], problem: str, remedy: str, fatal: bool):
    (finding,) = of_cluster(**changed)
    assert problem in finding.problem
    assert remedy in finding.remedy
    assert (finding.fatal, finding.nodes) == (fatal, ("b",))


@pytest.mark.parametrize(
    ("available", "problem"),
    [
        ({"GPU": 2.0}, "all CPUs of the cluster are in use"),
        ({"CPU": 5.0}, "all GPUs of the cluster are in use"),
        ({"CPU": 1.0, "GPU": 0.5}, None),
    ],
)
def test_a_busy_cluster_is_told(available: dict[str, float], problem: str | None):
    found = of_cluster(available)
    assert len(found) == (problem is not None)
    assert all(problem in finding.problem and not finding.fatal for finding in found)


def test_a_cluster_without_cpus_stops_a_sweep():
    empty = Cluster("10.0.0.1:6379", (Node("id-a", "a", {"memory": 1.0 * GIB}, SOUND),))
    free = next(finding for finding in problems(cluster_findings(empty, SOUND)) if finding.name == "free")
    assert (free.problem, free.fatal) == ("no node has a CPU for trials", True)


@pytest.mark.parametrize(
    ("startable", "value", "problem"),
    [
        (({"CPU": 0.0}, {"CPU": 8.0, "GPU": 1.0}), "starts nodes for a sweep: 8 CPUs and 1 GPUs", None),
        (None, "0 of 0 CPUs and 0 of 0 GPUs", "no node has a CPU for trials as yet"),
    ],
)
def test_a_cluster_whose_nodes_come_when_a_sweep_asks_stops_none(
    startable: tuple[dict[str, float], ...] | None, value: str, problem: str | None
):
    """That of `cluster.yaml` before its first sweep, and one of KubeRay's, whose autoscaler is out of sight."""
    head = Node("id-a", "a", {"CPU": 0.0}, SOUND)
    found = list(cluster_findings(Cluster("10.0.0.1:6379", (head,), {}, startable), SOUND))
    (free,) = (finding for finding in found if finding.name == "free")
    assert value in free.value
    assert (free.problem, free.fatal) == (problem, False)
    assert [finding.name for finding in problems(found)] == (["free"] if problem else [])


def test_without_a_cluster_the_report_says_what_would_start():
    (finding,) = no_cluster_findings(SOUND)
    assert finding.value == "none running; a sweep starts one here with 64 CPUs and 1 GPU"
    assert finding.problem is None


def test_an_unreachable_cluster_stops_a_sweep():
    said = "RAY_ADDRESS: must be a Ray cluster that answers (refused; really), got '1.2.3.4:1'"
    (finding,) = unreachable_findings(f"{said}; start one, or remove RAY_ADDRESS")
    assert (finding.problem, finding.remedy, finding.fatal) == (said, "start one, or remove RAY_ADDRESS", True)


def test_what_many_nodes_share_is_said_once():
    alike = [Finding("machine", "CPU", "EPYC", nodes=(name,)) for name in ("a", "b")]
    other = Finding("machine", "CPU", "Xeon", nodes=("c",))
    assert merged([alike[0], other, alike[1]]) == (Finding("machine", "CPU", "EPYC", nodes=("a", "b")), other)


def test_what_stops_a_sweep_comes_first():
    harmless = Finding("machine", "load", "9", "busy", "wait")
    fatal = Finding("storage", "folder", "/x", "/x cannot be used", "name another", True)
    report = Report((Finding("machine", "CPU", "EPYC"), harmless, fatal), ())
    assert report.problems == (fatal, harmless)
    assert report.stops == ("/x cannot be used",)
    assert Report((harmless,), ()).stops == ()


def test_trials_train_on_the_gpu_where_ray_counts_one_and_a_measurement_has_a_device_to_itself():
    both = Node("id", "a", {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H100": 1.0}, SOUND)
    assert (device_type(both), exclusive(both)) == ("NVIDIA H100", {"num_cpus": 1, "num_gpus": 1})
    unnamed = dataclasses.replace(both, machine=dataclasses.replace(SOUND, gpus=()))
    assert device_type(unnamed) == "H100"
    cpus = dataclasses.replace(both, resources={"CPU": 8.5}, machine=dataclasses.replace(SOUND, cpu="EPYC"))
    assert (device_type(cpus), exclusive(cpus)) == ("EPYC", {"num_cpus": 8, "num_gpus": 0})
    assert device_type(dataclasses.replace(cpus, resources={"memory": 1.0})) is None
    assert device_type(dataclasses.replace(cpus, machine=None)) is None
