"""What GPUs a machine has, and whether PyTorch can use them: facts to findings, nothing else."""

from collections.abc import Iterator, Sequence

from sweeps.engine.doctor.facts import Finding, Gpu, Machine
from sweeps.engine.doctor.words import count, size

BUSY_MEMORY, LOW_POWER = 0.1, 0.8
"""Share of a GPU's memory that others may hold, and of its power that it should be given, before it is a problem."""


def gpu_findings(machine: Machine) -> Iterator[Finding]:
    """The GPUs of a machine, and whether PyTorch can use them.

    Args:
        machine: its facts.
    """
    for index, gpu in enumerate(machine.gpus):
        yield from _gpu(f"GPU {index}", gpu, machine.torch.architectures)
    if machine.gpus:
        yield from _use(machine)


def _gpu(name: str, gpu: Gpu, architectures: Sequence[str]) -> Iterator[Finding]:
    known = "compute capability unknown" if gpu.capability is None else f"sm_{gpu.capability[0]}{gpu.capability[1]}"
    yield Finding("GPUs", name, f"{gpu.name}, {known}, {size(gpu.memory_bytes)}, driver {gpu.driver or 'unknown'}")
    if gpu.capability is not None and architectures and not has_code_for(gpu.capability, architectures):
        problem = f"this PyTorch has no code for {known}, only for {' '.join(architectures)}"
        yield Finding("GPUs", name, known, problem, "install a build that has it, see pytorch.org/get-started", True)
    if gpu.capability is not None and gpu.capability < (8, 0):
        problem = f"{known} has neither TF32 nor BF16 units"
        yield Finding("GPUs", name, known, problem, "of the precisions, only fp16-mixed can be faster than fp32 here")
    if gpu.memory_bytes and gpu.used_bytes is not None and gpu.used_bytes > BUSY_MEMORY * gpu.memory_bytes:
        problem = f"{size(gpu.used_bytes)} of {size(gpu.memory_bytes)} memory is taken by other processes"
        remedy = "see nvidia-smi and end them: timings would be contended, and trials run out of memory"
        yield Finding("GPUs", name, f"{size(gpu.used_bytes)} in use", problem, remedy)
    if gpu.compute_mode in ("Exclusive_Process", "Prohibited"):
        problem = (
            f"its compute mode {gpu.compute_mode} lets {'one process' if gpu.compute_mode[0] == 'E' else 'nobody'} in"
        )
        remedy = "sudo nvidia-smi -c DEFAULT, or do not share it: --gpus-per-trial 1"
        yield Finding("GPUs", name, gpu.compute_mode, problem, remedy, gpu.compute_mode == "Prohibited")
    if gpu.power_watts and gpu.max_power_watts and gpu.power_watts < LOW_POWER * gpu.max_power_watts:
        problem = f"its power is limited to {gpu.power_watts:g} of {gpu.max_power_watts:g} W"
        remedy = f"sudo nvidia-smi -pl {gpu.max_power_watts:g}, unless you train with the limit, too"
        yield Finding("GPUs", name, f"{gpu.power_watts:g} W", problem, remedy)


def _use(machine: Machine) -> Iterator[Finding]:
    """Whether PyTorch sees the GPUs that are there."""
    build, gpus = machine.torch, count(len(machine.gpus), "GPU")
    visible = machine.environment.get("CUDA_VISIBLE_DEVICES")
    if build.cuda is None and build.hip is None:
        problem = f"this machine has {gpus}, but its PyTorch is built for CPUs alone"
        remedy = (
            "pip install --force-reinstall torch (see pytorch.org/get-started), or train on the CPU: --gpus-per-trial 0"
        )
        yield Finding("GPUs", "PyTorch", "CUDA build missing", problem, remedy, True)
    elif build.num_devices is None:
        return
    elif build.num_devices:
        yield Finding("GPUs", "PyTorch", f"sees {build.num_devices} of {gpus}")
    elif visible is not None:
        problem = f"CUDA_VISIBLE_DEVICES={visible} hides this machine's {gpus}"
        yield Finding("GPUs", "PyTorch", "sees none", problem, "unset it to train on them")
    else:
        why = f" ({build.error})" if build.error else ""
        problem = f"PyTorch, built for CUDA {build.cuda}, cannot use this machine's {gpus}{why}"
        remedy = f"update the driver (now {machine.gpus[0].driver}), or install a build for an older CUDA"
        yield Finding("GPUs", "PyTorch", "sees none", problem, remedy, True)


def has_code_for(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether a build has machine code that a GPU runs, or code that its driver can translate.

    Machine code (``sm_86``) runs on GPUs of the same major version that are not older; ``compute_`` code, and no code
    of a variant such as ``sm_90a``, is translated for any later one.

    Args:
        capability: of the GPU.
        architectures: of the build.
    """
    for architecture in architectures:
        kind, _, digits = architecture.partition("_")
        if digits.isdigit():
            major, minor = int(digits[:-1]), int(digits[-1])
            if kind == "sm" and major == capability[0] and minor <= capability[1]:
                return True
            if kind == "compute" and (major, minor) <= capability:
                return True
    return False
