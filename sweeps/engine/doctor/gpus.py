"""NVIDIA GPUs, as the driver and as PyTorch see them."""

import shutil
import subprocess

from sweeps.engine.doctor.facts import Gpu, TorchBuild

_FIELDS = (
    "name",
    "compute_cap",
    "memory.total",
    "memory.used",
    "compute_mode",
    "power.limit",
    "power.max_limit",
    "driver_version",
)


def find_gpus() -> tuple[Gpu, ...]:
    """The GPUs that the driver knows, those hidden from this process too; none where there is no ``nvidia-smi``."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_smi(done.stdout) if done.returncode == 0 else ()


def parse_smi(text: str) -> tuple[Gpu, ...]:
    """GPUs by the lines that ``nvidia-smi`` prints, one each; what it does not know, ``[N/A]``, is missing.

    Args:
        text: comma-separated values, without header and units: memory in MiB, power in watts.
    """
    rows = [[value.strip() for value in line.split(",")] for line in text.splitlines()]
    return tuple(_gpu(dict(zip(_FIELDS, row, strict=True))) for row in rows if len(row) == len(_FIELDS))


def _gpu(row: dict[str, str]) -> Gpu:
    numbers = {name: _number(row[name]) for name in ("memory.total", "memory.used", "power.limit", "power.max_limit")}
    total, used = numbers["memory.total"], numbers["memory.used"]
    major, dot, minor = row["compute_cap"].partition(".")
    return Gpu(
        name=row["name"],
        capability=(int(major), int(minor)) if dot and major.isdigit() and minor.isdigit() else None,
        memory_bytes=None if total is None else int(total * 2**20),
        used_bytes=None if used is None else int(used * 2**20),
        compute_mode=row["compute_mode"],
        power_watts=numbers["power.limit"],
        max_power_watts=numbers["power.max_limit"],
        driver=row["driver_version"],
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def torch_build(use_gpus: bool) -> TorchBuild:
    """What PyTorch was built for, and what it sees.

    Args:
        use_gpus: whether it is asked for its GPUs.
    """
    import torch

    from trainables.kernels import libraries

    cuda, hip = torch.version.cuda, torch.version.hip
    has_gpus = use_gpus and torch.cuda.is_available()
    return TorchBuild(
        cuda=cuda,
        hip=hip,
        architectures=tuple(torch.cuda.get_arch_list()),
        num_devices=torch.cuda.device_count() if has_gpus else 0 if use_gpus else None,
        error=_why_none() if use_gpus and (cuda or hip) and not has_gpus else None,
        libraries=libraries(),
    )


def _why_none() -> str | None:
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())[:300]
    return None
