"""What the doctor looks at and what it finds, as plain data: gathered in one place, judged in another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.rates import MatrixRate

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "svebf16")
"""CPU flags that stand for products of BF16 numbers in hardware, on x86 and on ARM."""

INSTRUCTIONS = ("avx2", "avx512f", "avx512_fp16", "amx_tile", "amx_fp16", *BF16_INSTRUCTIONS, "asimdhp", "sve", "i8mm")
"""CPU flags on which the speed of training depends."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Args:
        area: heading under which it stands.
        name: what was looked at.
        value: what was found.
        problem: what is wrong with it, a phrase; ``None`` where nothing is.
        remedy: what to do about the problem.
        fatal: whether a sweep cannot run with it.
        nodes: of the cluster, on which it was found; empty for what belongs to no node.
    """

    area: str
    name: str
    value: str = ""
    problem: str | None = None
    remedy: str | None = None
    fatal: bool = False
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU of a machine, as the driver describes it.

    Args:
        name: as it is sold.
        capability: compute capability, such as (9, 0).
        memory_bytes: in all; ``used_bytes``: taken by any process.
        compute_mode: ``Default``, or who may use it.
        power_watts: the limit in force; ``max_power_watts``: the highest that the board allows.
        driver: version.
    """

    name: str
    capability: tuple[int, int] | None = None
    memory_bytes: int | None = None
    used_bytes: int | None = None
    compute_mode: str | None = None
    power_watts: float | None = None
    max_power_watts: float | None = None
    driver: str | None = None


@dataclass(frozen=True)
class TorchBuild:
    """What PyTorch was built for, and what it sees.

    Args:
        cuda: version of CUDA that it was built with; ``hip`` of ROCm; ``None`` for a build without.
        architectures: GPU code in it, such as ``sm_90`` and ``compute_90``.
        num_devices: GPUs that it sees; ``None`` where nobody looked, as in a task without GPUs.
        error: why it sees none, in its own words.
        libraries: name -> version.
    """

    cuda: str | None = None
    hip: str | None = None
    architectures: tuple[str, ...] = ()
    num_devices: int | None = None
    error: str | None = None
    libraries: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """A machine's hardware, its limits, and the software on it. What could not be found out is ``None``.

    Args:
        node: host name.
        system: operating system.
        cpu: model; ``vendor``: as the CPU gives it.
        instructions: those of :data:`INSTRUCTIONS` that it has.
        num_cpus: logical CPUs of the machine; ``num_cores``: physical ones.
        usable_cpus: logical CPUs on which this process may run.
        cpu_quota: CPUs' worth of time that the container gets.
        ray_cpus: CPUs that a Ray started here would count.
        governor: ``driver: governor`` of the CPU's frequency.
        load: processes that wanted a CPU in the last minute.
        on_battery: whether a battery is being discharged.
        memory_bytes: of the machine or container; ``available_bytes``: of the machine.
        shm_bytes: size of ``/dev/shm``, where Ray keeps objects.
        scratch: Ray's folder for files; ``scratch_free``: share of its disk that is free.
        environment: variables that change arithmetic or speed.
        versions: package -> version, ``None`` where it is not installed; Python among them.
        outdated: packages outside the versions that ampsweep declares -> what it declares.
        gpus: of the machine, whatever this process may use.
        torch: what PyTorch has.
    """

    node: str
    system: str = ""
    cpu: str = ""
    vendor: str | None = None
    instructions: tuple[str, ...] | None = None
    num_cpus: int = 1
    num_cores: int | None = None
    usable_cpus: int = 1
    cpu_quota: float | None = None
    ray_cpus: int = 1
    governor: str | None = None
    load: float | None = None
    on_battery: bool = False
    memory_bytes: int | None = None
    available_bytes: int | None = None
    shm_bytes: int | None = None
    scratch: str = "/tmp"
    scratch_free: float | None = None
    environment: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str | None] = field(default_factory=dict)
    outdated: dict[str, str] = field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()
    torch: TorchBuild = TorchBuild()


@dataclass(frozen=True)
class Storage:
    """The folder for results.

    Args:
        place: as given.
        folder: absolute; where it is not there yet, it would be made.
        error: why it cannot be written, or why it cannot be used at all.
        can_lock: whether its file system has the locks that keep a second driver out.
        file_system: its type, such as ``ext4``.
        total_bytes, free_bytes: of its disk.
        unseen_by: nodes of the cluster that do not see it.
    """

    place: str
    folder: str
    error: str | None = None
    can_lock: bool = True
    file_system: str | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    unseen_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tracking:
    """Weights & Biases on this machine.

    Args:
        version: ``None`` where it is not installed.
        mode: ``online``, ``offline`` or ``disabled``.
        host: of the server.
        key_from: where a key was found, never the key.
        error: why the place for keys could not be read.
    """

    version: str | None
    mode: str = "online"
    host: str = ""
    key_from: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Unanswered:
    """Why a task on a node gave nothing.

    Args:
        reason: in a sentence.
        timed_out: whether it never got to run or to end, as on a busy node; else it failed, as a trial would.
    """

    reason: str
    timed_out: bool = False


@dataclass(frozen=True)
class Measured:
    """Rates of one type of device.

    Args:
        device: its name.
        node: on which it was measured.
        rates: of each format and number of threads.
        error: why nothing was measured.
    """

    device: str
    node: str
    rates: tuple["MatrixRate", ...] = ()
    error: Unanswered | None = None


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    Args:
        node_id: as Ray names it.
        name: of its host.
        resources: as Ray counts them.
        machine: ``None`` where it could not be asked.
        error: why not.
    """

    node_id: str
    name: str
    resources: dict[str, float]
    machine: Machine | None = None
    error: Unanswered | None = None


@dataclass(frozen=True)
class Cluster:
    """A running Ray cluster.

    Args:
        address: where it was reached.
        nodes: those alive.
        available: resources of the whole cluster that nothing uses.
        startable: what a node of each kind has that the autoscaler may start, looked up where trials fit on none that
            is there; ``None`` where that cannot be known.
    """

    address: str
    nodes: tuple[Node, ...]
    available: dict[str, float] = field(default_factory=dict)
    startable: tuple[Mapping[str, float], ...] | None = ()
