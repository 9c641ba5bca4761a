"""What a machine has, and what is wrong with it: facts to findings, nothing else."""

from collections.abc import Iterator

from sweeps.engine.doctor.facts import BF16_INSTRUCTIONS, Finding, Machine
from sweeps.engine.doctor.words import count, size

LOW_SHM_BYTES = 2**30
LOW_MEMORY, NO_MEMORY = 0.1, 0.05
"""Shares of memory that are available: little, and so little that Ray ends processes (its threshold is 95 % used)."""

LOW_SCRATCH, NO_SCRATCH = 0.1, 0.05
"""Shares of the disk under Ray's folder that are free: little, and so little that Ray refuses to spill objects."""

NEEDED = ("torch", "ray", "numpy", "pandas", "rich")
"""Packages without which no sweep runs."""

EFFECTS = {
    "ATEN_CPU_CAPABILITY": "limits PyTorch's own CPU kernels to older instructions",
    "CUDA_LAUNCH_BLOCKING": "makes every CUDA kernel wait for the one before, so that nothing is timed as it would run",
    "DNNL_DEFAULT_FPMATH_MODE": "lets products of FP32 numbers run in a narrower format",
    "DNNL_MAX_CPU_ISA": "limits oneDNN to older instructions",
    "MKL_CBWR": "limits MKL to kernels that are the same on all CPUs",
    "MKL_ENABLE_INSTRUCTIONS": "limits MKL to older instructions",
    "NVIDIA_TF32_OVERRIDE": "turns TF32 on or off whatever a precision asks for",
    "ONEDNN_DEFAULT_FPMATH_MODE": "lets products of FP32 numbers run in a narrower format",
    "ONEDNN_MAX_CPU_ISA": "limits oneDNN to older instructions",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "makes PyTorch ask the driver for memory at every allocation",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "turns TF32 on whatever a precision asks for",
}
"""Environment variable -> what it does to the numbers of a sweep."""


def machine_findings(machine: Machine) -> Iterator[Finding]:
    """What stands about a machine in the report.

    Args:
        machine: its facts.
    """
    yield Finding("machine", "system", machine.system)
    yield _cpu(machine)
    yield _instructions(machine)
    yield from _cpu_limits(machine)
    yield from _speed(machine)
    yield _memory(machine)
    yield from _shm(machine)
    yield _scratch(machine)
    for name, value in machine.environment.items():
        if name in EFFECTS and value:
            yield Finding("machine", name, value, f"{name}={value} {EFFECTS[name]}", f"unset {name}")


def version_findings(machine: Machine) -> Iterator[Finding]:
    """The packages that a machine has.

    Args:
        machine: its facts.
    """
    for name, version in machine.versions.items():
        problem = remedy = None
        declared = machine.outdated.get(name, "")
        if version is None and name in NEEDED:
            problem, remedy = f"{name} is not installed", f"pip install {name}"
        elif declared:
            problem = f"{name} {version} is outside the versions that ampsweep is made for ({declared})"
            remedy = f"pip install '{name}{declared}'"
        yield Finding("versions", name, version or "not installed", problem, remedy, version is None and name in NEEDED)
    built = f"CUDA {machine.torch.cuda}" if machine.torch.cuda else f"ROCm {machine.torch.hip}"
    yield Finding("versions", "PyTorch's build", built if machine.torch.cuda or machine.torch.hip else "CPU only")
    libraries = ", ".join(f"{name} {version}" for name, version in machine.torch.libraries.items())
    yield Finding("versions", "PyTorch's libraries", libraries or "unknown")


def _cpu(machine: Machine) -> Finding:
    cores = "" if machine.num_cores is None else f", {count(machine.num_cores, 'core')}"
    value = f"{machine.cpu}, {count(machine.num_cpus, 'CPU')}{cores}"
    if machine.num_cores is None or machine.num_cpus <= machine.num_cores:
        return Finding("machine", "CPU", value)
    problem = f"{machine.num_cpus} CPUs are threads of {machine.num_cores} cores, so trials on one CPU each share cores"
    per_core = machine.num_cpus // machine.num_cores
    return Finding(
        "machine", "CPU", value, problem, f"on the CPU, give trials whole cores: --cpus-per-trial {per_core}"
    )


def _instructions(machine: Machine) -> Finding:
    if machine.instructions is None:
        return Finding("machine", "instructions", "unknown")
    value = " ".join(machine.instructions) or "none that matter"
    if set(machine.instructions) & set(BF16_INSTRUCTIONS):
        return Finding("machine", "instructions", value)
    problem = "this CPU has no BF16 instructions, so bf16-mixed and bf16-true are emulated on it"
    remedy = "on the CPU, leave them out or expect no gain; avx512_bf16, amx_bf16 or a GPU would give one"
    return Finding("machine", "instructions", value, problem, remedy)


def _cpu_limits(machine: Machine) -> Iterator[Finding]:
    usable, total = machine.usable_cpus, machine.num_cpus
    if machine.cpu_quota is not None and machine.cpu_quota < usable:
        problem = (
            f"the container is limited to {machine.cpu_quota:g} of {total} CPUs, but threads start on all {usable}"
        )
        threads = max(1, int(machine.cpu_quota))
        remedy = f"give it more CPUs, or keep to them: --cpus-per-trial at most {threads}, OMP_NUM_THREADS={threads}"
        yield Finding("machine", "CPU limit", f"{machine.cpu_quota:g} CPUs", problem, remedy)
    if machine.ray_cpus > usable:
        problem = (
            f"this process may use {usable} of {total} CPUs, but a Ray started here would count {machine.ray_cpus}"
        )
        remedy = f"ray start --head --num-cpus {usable}, then RAY_ADDRESS=auto"
        yield Finding("machine", "CPU limit", f"{usable} CPUs", problem, remedy)


def _speed(machine: Machine) -> Iterator[Finding]:
    """What makes a CPU slower than it is, or slower at times."""
    if machine.governor is not None:
        driver, _, governor = machine.governor.partition(": ")
        # These two drivers call the mode in which the hardware chooses the frequency by load so.
        is_slow = governor == "powersave" and driver not in ("intel_pstate", "amd-pstate-epp")
        problem = "the CPU's frequency governor is powersave, so it stays at its lowest frequency" if is_slow else None
        remedy = "sudo cpupower frequency-set -g performance" if is_slow else None
        yield Finding("machine", "frequency governor", machine.governor, problem, remedy)
    if machine.on_battery:
        problem = "this machine runs on its battery, which slows it, and ever more"
        yield Finding("machine", "power", "battery", problem, "plug it in before confirm times anything")
    if machine.load is not None and machine.load > machine.num_cpus + 0.5:
        problem = (
            f"{machine.load:.0f} processes want {count(machine.num_cpus, 'CPU')}: rates and timings come out too low"
        )
        yield Finding("machine", "load", f"{machine.load:.0f}", problem, "end the other work, or measure later")


def _memory(machine: Machine) -> Finding:
    total, available = machine.memory_bytes, machine.available_bytes
    value = size(total)
    if total is None or available is None or available >= LOW_MEMORY * total:
        return Finding("machine", "memory", value)
    problem = f"only {size(available)} of {size(total)} memory is available"
    remedy = "end other programs: Ray ends trials on a node that has used 95 %"
    return Finding("machine", "memory", value, problem, remedy, available < NO_MEMORY * total)


def _shm(machine: Machine) -> Iterator[Finding]:
    if machine.shm_bytes is None:
        return
    problem = remedy = None
    if machine.shm_bytes < LOW_SHM_BYTES:
        problem = f"/dev/shm has only {size(machine.shm_bytes)}, so Ray keeps its objects on disk"
        remedy = "give the container more: docker run --shm-size=8g, or an emptyDir of medium Memory in Kubernetes"
    yield Finding("machine", "/dev/shm", size(machine.shm_bytes), problem, remedy)


def _scratch(machine: Machine) -> Finding:
    free = machine.scratch_free
    value = machine.scratch
    if free is None or free >= LOW_SCRATCH:
        return Finding("machine", "Ray's files", value)
    problem = f"the disk of {machine.scratch}, where Ray keeps its files, is nearly full ({free:.0%} free)"
    remedy = f"delete old sessions under {machine.scratch}/ray, or name another folder by RAY_TMPDIR"
    return Finding("machine", "Ray's files", value, problem, remedy, free < NO_SCRATCH)
