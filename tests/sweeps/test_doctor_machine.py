"""Each problem of a machine and its GPUs: facts in, one finding out; and none where nothing is wrong."""

import dataclasses
from collections.abc import Iterable

import pytest

from sweeps.engine.doctor.facts import Finding, Gpu, Machine, TorchBuild
from sweeps.engine.doctor.gpu_rules import gpu_findings, has_code_for
from sweeps.engine.doctor.machine_rules import machine_findings, version_findings

GIB = 2**30

H100 = Gpu("NVIDIA H100", (9, 0), 80 * GIB, GIB, "Default", 700.0, 700.0, "550.54")

SOUND = Machine(
    node="a",
    system="Linux",
    cpu="AMD EPYC 9655",
    vendor="AuthenticAMD",
    instructions=("avx2", "avx512f", "avx512_bf16"),
    num_cpus=64,
    num_cores=64,
    usable_cpus=64,
    ray_cpus=64,
    governor="acpi-cpufreq: performance",
    load=0.5,
    memory_bytes=256 * GIB,
    available_bytes=200 * GIB,
    shm_bytes=64 * GIB,
    scratch_free=0.7,
    versions={"python": "3.12.1", "torch": "2.13.0", "ray": "2.60.0", "numpy": "2.4", "pandas": "3.1", "rich": "15"},
    gpus=(H100,),
    torch=TorchBuild("12.8", architectures=("sm_80", "sm_90", "compute_90"), num_devices=1),
)


def problems(findings: Iterable[Finding]) -> list[Finding]:
    """Those with a problem, each of which must say what to do."""
    found = [finding for finding in findings if finding.problem]
    assert all(finding.remedy for finding in found)
    return found


def of_machine(**changed: object) -> list[Finding]:
    machine = dataclasses.replace(SOUND, **changed)
    return problems([*machine_findings(machine), *gpu_findings(machine), *version_findings(machine)])


def gpu(**changed: object) -> dict[str, object]:
    return {"gpus": (dataclasses.replace(H100, **changed),)}


def build(**changed: object) -> dict[str, object]:
    return {"torch": dataclasses.replace(SOUND.torch, **changed)}


def test_nothing_is_wrong_with_a_sound_machine():
    assert of_machine() == []
    everything = [*machine_findings(SOUND), *gpu_findings(SOUND), *version_findings(SOUND)]
    shown = " ".join(f"{finding.name} {finding.value}" for finding in everything)
    for fact in (
        "AMD EPYC 9655, 64 CPUs, 64 cores",
        "avx512_bf16",
        "NVIDIA H100, sm_90, 80 GiB, driver 550.54",
        "2.13.0",
    ):
        assert fact in shown


@pytest.mark.parametrize(
    ("changed", "problem", "remedy", "fatal"),
    [
        ({"num_cores": 32}, "64 CPUs are threads of 32 cores", "--cpus-per-trial 2", False),
        ({"instructions": ("avx2",)}, "no BF16 instructions", "leave them out", False),
        ({"cpu_quota": 2.0}, "limited to 2 of 64 CPUs", "OMP_NUM_THREADS=2", False),
        ({"cpu_quota": 0.5}, "limited to 0.5 of 64 CPUs", "OMP_NUM_THREADS=1", False),
        ({"usable_cpus": 4}, "may use 4 of 64 CPUs, but a Ray started here would count 64", "--num-cpus 4", False),
        ({"governor": "acpi-cpufreq: powersave"}, "governor is powersave", "performance", False),
        ({"on_battery": True}, "battery", "plug it in", False),
        ({"load": 130.0}, "130 processes want 64 CPUs", "end the other work", False),
        ({"available_bytes": 20 * GIB}, "only 20 GiB of 256 GiB memory", "95 %", False),
        ({"available_bytes": 10 * GIB}, "only 10 GiB of 256 GiB memory", "95 %", True),
        ({"shm_bytes": 64 * 2**20}, "/dev/shm has only 64 MiB", "--shm-size", False),
        ({"scratch_free": 0.07}, "nearly full (7% free)", "RAY_TMPDIR", False),
        ({"scratch_free": 0.03}, "nearly full (3% free)", "RAY_TMPDIR", True),
        ({"environment": {"NVIDIA_TF32_OVERRIDE": "0"}}, "NVIDIA_TF32_OVERRIDE=0 turns TF32", "unset", False),
        ({"environment": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}, "older instructions", "unset ONEDNN_MAX_CPU_ISA", False),
        ({"versions": SOUND.versions | {"pandas": None}}, "pandas is not installed", "pip install pandas", True),
        ({"outdated": {"torch": "<2.14,>=2.9"}}, "torch 2.13.0 is outside", "pip install 'torch<2.14,>=2.9'", False),
        (build(cuda=None, architectures=(), num_devices=0), "built for CPUs alone", "--force-reinstall torch", True),
        (build(architectures=("sm_70", "sm_80")), "no code for sm_90, only for sm_70 sm_80", "get-started", True),
        (build(num_devices=0, error="driver too old"), "(driver too old)", "update the driver (now 550.54)", True),
        (
            build(num_devices=0) | {"environment": {"CUDA_VISIBLE_DEVICES": ""}},
            "CUDA_VISIBLE_DEVICES= hides this machine's 1 GPU",
            "unset it",
            False,
        ),
        (gpu(capability=(7, 5)) | build(architectures=("sm_75",)), "neither TF32 nor BF16", "fp16-mixed", False),
        (gpu(used_bytes=30 * GIB), "30 GiB of 80 GiB memory is taken", "nvidia-smi", False),
        (gpu(compute_mode="Exclusive_Process"), "lets one process in", "--gpus-per-trial 1", False),
        (gpu(compute_mode="Prohibited"), "lets nobody in", "nvidia-smi -c DEFAULT", True),
        (gpu(power_watts=350.0), "limited to 350 of 700 W", "nvidia-smi -pl 700", False),
    ],
)
def test_a_problem_of_a_machine(changed: dict[str, object], problem: str, remedy: str, fatal: bool):
    (finding,) = of_machine(**changed)
    assert problem in finding.problem
    assert remedy in finding.remedy
    assert finding.fatal is fatal


@pytest.mark.parametrize(
    "changed",
    [
        {"governor": "intel_pstate: powersave"},  # there the hardware chooses, and goes up under load
        {"num_cores": None, "instructions": None, "governor": None, "load": None, "available_bytes": None},
        {"shm_bytes": None, "scratch_free": None, "memory_bytes": None},
        {"cpu_quota": 64.0},
        {"environment": {"CUDA_VISIBLE_DEVICES": "0", "NVIDIA_TF32_OVERRIDE": ""}},
        {"versions": SOUND.versions | {"optuna": None}},
        {"gpus": (), "torch": TorchBuild()},
        {"gpus": (Gpu("NVIDIA X"),)},
        build(num_devices=None),  # a task without GPUs must not say that there are none
    ],
)
def test_what_is_usual_or_unknown_is_no_problem(changed: dict[str, object]):
    assert of_machine(**changed) == []


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "sm_86"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((12, 0), ["sm_90", "sm_120"], True),
        ((10, 0), ["sm_90a"], False),
    ],
)
def test_machine_code_runs_on_its_own_generation_and_other_code_on_later_ones(capability, architectures, expected):
    assert has_code_for(capability, architectures) is expected
