"""What is read of a GPU and of those who share it. NVML and the GPU are mocked: this machine has none."""

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainables.contention import Neighbours
from trainables.gpu_state import GpuState, GpuWatch, summarise

CUDA = torch.device("cuda", 0)


class NVMLError(Exception):
    pass


class FakeNvml:
    """As ``pynvml`` 12 and 13 have it: milliwatts, a mask of reasons, an error where there is nothing to tell."""

    NVMLError, NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = NVMLError, 1, 0

    def __init__(self, mask: int = 0, processes: dict[int, int] | None = None, fails: str = "") -> None:
        self.mask, self.processes, self.fails = mask, processes, fails
        self.since_us = 0

    def nvmlInit(self) -> None:
        if self.fails == "init":
            raise NVMLError

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-4f2b"
        return "the handle"

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        assert (handle, kind) == ("the handle", 1)
        return 1755

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        if self.fails == "power":
            raise NVMLError
        return 512_500

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        return 700_000

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return 61

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return self.mask

    def nvmlDeviceGetProcessUtilization(self, handle: str, since_us: int) -> list[Any]:
        self.since_us = since_us
        if self.processes is None:
            raise NVMLError
        return [SimpleNamespace(pid=pid, smUtil=share) for pid, share in self.processes.items()]


def watch(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> GpuWatch | None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="4f2b"))
    return GpuWatch.of(CUDA)


@pytest.mark.parametrize(
    ("mask", "reasons"),
    [
        (0, set()),
        (0x1 | 0x2 | 0x100, set()),  # idle, and clocks that somebody chose
        (0x4, {"power cap"}),
        (0x4 | 0x20 | 0x1, {"power cap", "thermal, by software"}),
        (0x8 | 0x40 | 0x80, {"hardware slowdown", "thermal, by hardware", "power brake"}),
    ],
)
def test_a_look_gives_clocks_power_and_reasons(monkeypatch: pytest.MonkeyPatch, mask: int, reasons: set[str]) -> None:
    found = watch(monkeypatch, FakeNvml(mask))
    assert found is not None
    assert found.look() == GpuState(1755.0, 512.5, 700.0, 61.0, frozenset(reasons))


def test_what_the_driver_does_not_tell_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(monkeypatch, FakeNvml(fails="power"))
    assert found is not None
    assert (found.look().power_w, found.look().power_limit_w) == (None, 700.0)
    assert watch(monkeypatch, FakeNvml(fails="init")) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert GpuWatch.of(CUDA) is None
    assert GpuWatch.of(torch.device("cpu")) is None


def test_a_summary_is_of_what_is_known() -> None:
    states = [
        GpuState(1700.0, 500.0, 700.0, None, frozenset({"power cap"})),
        GpuState(1755.0, None, 700.0, None, frozenset()),
        GpuState(1980.0, 600.0, 700.0, None, frozenset({"sync boost"})),
    ]
    assert summarise(states) == {
        "sm_clock_mhz": 1755.0,
        "power_w": 550.0,
        "power_limit_w": 700.0,
        "temperature_c": None,
        "throttle_reasons": "power cap; sync boost",
    }
    assert summarise(states[1:2])["throttle_reasons"] == "none"
    assert set(summarise([]).values()) == {None}


@pytest.mark.parametrize(
    ("processes", "found"),
    [
        (None, None),
        ({}, None),
        ({os.getpid(): 97}, None),
        ({os.getpid(): 97, 77: 3}, None),  # keeps memory there, and hardly more
        ({os.getpid(): 55, 77: 40, 78: 20}, (77, 40)),
        ({77: 97}, None),  # a container's: this one by another name
        ({77: 60, 78: 35}, (None, 35)),
    ],
)
def test_other_processes_that_use_the_gpu_are_told_from_those_that_are_there(
    monkeypatch: pytest.MonkeyPatch, processes: dict[int, int] | None, found: tuple[int | None, int] | None
) -> None:
    nvml = FakeNvml(processes=processes)
    gpu = watch(monkeypatch, nvml)
    assert gpu is not None
    assert gpu.busiest_other(12.5) == found
    assert nvml.since_us == 12_500_000
    reason = Neighbours(gpu).reason(False, [0.0])
    if found is None:
        assert reason is None
    else:
        pid, percent = found
        assert reason == f"another process used the GPU for {percent} % of its time" + (f" (pid {pid})" if pid else "")
