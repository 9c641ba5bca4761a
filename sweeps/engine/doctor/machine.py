"""Looks at the machine that this process runs on; runs on nodes of the cluster, too."""

import os
import platform
import shutil
import socket
import tempfile
from pathlib import Path

from sweeps.engine.doctor.facts import INSTRUCTIONS, Machine
from sweeps.engine.doctor.gpus import find_gpus, torch_build
from sweeps.engine.doctor.versions import outdated, versions

INFLUENTIAL = (
    "ATEN_CPU_CAPABILITY",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""Environment variables that change the arithmetic, or what it costs."""

_CGROUP = Path("/sys/fs/cgroup")
_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")


def look_at_machine(use_gpus: bool) -> Machine:
    """Everything about this machine that a sweep depends on, read without starting anything.

    Args:
        use_gpus: whether PyTorch is asked for its GPUs; not in a Ray task that was given none, since Ray hides them.
    """
    import torch

    from trainables.precision import device_name

    text = _read("/proc/cpuinfo") or ""
    scratch = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    disk = shutil.disk_usage(scratch)
    memory = parse_meminfo(_read("/proc/meminfo") or "")
    limit = parse_memory_limit(_read(_CGROUP / "memory.max") or _read(_CGROUP / "memory/memory.limit_in_bytes"))
    total = memory.get("MemTotal")
    return Machine(
        node=socket.gethostname(),
        system=platform.platform(terse=True),
        cpu=device_name(torch.device("cpu")),
        vendor=parse_cpuinfo(text)[0],
        instructions=parse_cpuinfo(text)[1],
        num_cpus=os.cpu_count() or 1,
        num_cores=parse_cpuinfo(text)[2],
        usable_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu_quota=_quota(),
        ray_cpus=_ray_cpus(),
        governor=_governor(),
        load=os.getloadavg()[0],
        on_battery=_on_battery(),
        memory_bytes=min(total, limit) if total and limit else total,
        available_bytes=memory.get("MemAvailable"),
        shm_bytes=shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else None,
        scratch=scratch,
        scratch_free=disk.free / disk.total,
        environment={name: os.environ[name] for name in INFLUENTIAL if name in os.environ},
        versions=versions(),
        outdated=outdated(),
        gpus=find_gpus(),
        torch=torch_build(use_gpus),
    )


def parse_cpuinfo(text: str) -> tuple[str | None, tuple[str, ...] | None, int | None]:
    """Vendor, instructions that matter, and number of physical cores, as ``/proc/cpuinfo`` tells them.

    Args:
        text: of the file, empty where there is none.
    """
    entries = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        for block in text.strip().split("\n\n")
    ]
    first = entries[0]
    flags = first.get("flags") or first.get("Features")
    cores = {
        (entry["physical id"], entry["core id"]) for entry in entries if {"physical id", "core id"} <= entry.keys()
    }
    known = tuple(name for name in INSTRUCTIONS if name in flags.split()) if flags else None
    return first.get("vendor_id") or first.get("CPU implementer"), known, len(cores) or None


def parse_meminfo(text: str) -> dict[str, int]:
    """Name -> bytes, as ``/proc/meminfo`` tells them."""
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines if len(words) == 3}


def parse_memory_limit(text: str | None) -> int | None:
    """Bytes that a control group may use; ``None`` for no limit, which its first version writes as a huge number."""
    if text is None or not text.isdigit() or int(text) >= 2**60:
        return None
    return int(text)


def parse_quota(quota: str, period: str) -> float | None:
    """CPUs' worth of time that a control group gets; ``None`` for no limit, ``max`` or -1.

    Args:
        quota: microseconds of CPU time in each period; ``period``: its microseconds.
    """
    return int(quota) / int(period) if quota.isdigit() and int(quota) else None


def _quota() -> float | None:
    both = (_read(_CGROUP / "cpu.max") or "").split()
    if len(both) == 2:
        return parse_quota(both[0], both[1])
    quota, period = (_read(_CGROUP / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return parse_quota(quota, period) if quota and period else None


def _ray_cpus() -> int:
    from ray._private.utils import get_num_cpus  # what ray.init would count; there is no public name for it

    return int(get_num_cpus(override_docker_cpu_warning=True))


def _governor() -> str | None:
    driver, governor = (_read(_CPUFREQ / name) for name in ("scaling_driver", "scaling_governor"))
    return f"{driver}: {governor}" if governor else None


def _on_battery() -> bool:
    supplies = Path("/sys/class/power_supply").glob("BAT*/status")
    return any(_read(status) == "Discharging" for status in supplies)


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
