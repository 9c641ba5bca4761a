"""What a GPU did while it was timed: clocks, power, temperature, why it held back, and who else used it; through NVML.

NVML comes with the extra ``nvml`` (``nvidia-ml-py``); without it, or without a GPU, all of this is unknown.
"""

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal, by software",
    0x40: "thermal, by hardware",
    0x80: "power brake",
}
"""Bits of NVML's mask of reasons for lower clocks; an idle GPU and clocks that somebody chose are none."""

BUSY_ABOVE = 10
"""Percent of its time that a GPU may spend on another process; above, that process disturbed what was timed."""


@dataclass(frozen=True)
class GpuState:
    """One look at a GPU; a figure that the driver does not give is ``None``.

    Args:
        sm_clock_mhz: clock of its multiprocessors.
        power_w, power_limit_w: draw, and the limit in force.
        temperature_c: of the chip.
        reasons: why it runs below its clocks, of :data:`REASONS`; empty where nothing holds it back.
    """

    sm_clock_mhz: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    reasons: frozenset[str] | None = None


class GpuWatch:
    """Looks at the GPU of a device.

    Args:
        nvml: the module ``pynvml``.
        handle: NVML's, of the GPU.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    @classmethod
    def of(cls, device: torch.device) -> "GpuWatch | None":
        """The watch of a CUDA device; ``None`` on a CPU, without NVML, or where NVML does not know the GPU."""
        if device.type != "cuda":
            return None
        try:
            import pynvml

            pynvml.nvmlInit()
            # By its name: NVML counts GPUs that CUDA_VISIBLE_DEVICES hides from this process.
            uuid = torch.cuda.get_device_properties(device).uuid
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        except Exception:
            return None

    def look(self) -> GpuState:
        """The state at this moment; some tenths of a millisecond."""
        nvml, handle = self._nvml, self._handle
        mask = self._ask(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        return GpuState(
            self._ask(lambda: float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
            self._ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3),
            self._ask(lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            None if mask is None else frozenset(reason for bit, reason in REASONS.items() if mask & bit),
        )

    def busiest_other(self, since_s: float) -> tuple[int | None, int] | None:
        """(process, percent of the GPU's time) of the busiest other process since a time; ``None`` if none was busy.

        A process that merely keeps memory there disturbs nothing.

        Args:
            since_s: seconds since 1970.

        Returns:
            the process is ``None`` in a container, where NVML counts processes otherwise than this one does: then the
            busiest is taken for this one.
        """
        samples = self._ask(lambda: self._nvml.nvmlDeviceGetProcessUtilization(self._handle, int(since_s * 1e6)))
        busy: dict[int, int] = {}
        for sample in samples or []:
            busy[sample.pid] = max(busy.get(sample.pid, 0), sample.smUtil)
        ranked = sorted(busy.items(), key=lambda item: item[1], reverse=True)
        others: list[tuple[int | None, int]] = [(pid, share) for pid, share in ranked if pid != os.getpid()]
        if os.getpid() not in busy:
            others = [(None, share) for _, share in others[1:]]
        return others[0] if others and others[0][1] > BUSY_ABOVE else None

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except self._nvml.NVMLError:
            return None


def summarise(states: Sequence[GpuState]) -> dict[str, Any]:
    """Columns of ``timings``: medians over looks, and every reason that was seen."""
    found: dict[str, Any] = {}
    for name in ("sm_clock_mhz", "power_w", "power_limit_w", "temperature_c"):
        known = [value for state in states if (value := getattr(state, name)) is not None]
        found[name] = statistics.median(known) if known else None
    masks = [state.reasons for state in states if state.reasons is not None]
    reasons = sorted(frozenset[str]().union(*masks))
    return {**found, "throttle_reasons": ("; ".join(reasons) or "none") if masks else None}
