"""Where a step's device time goes."""

from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from trainables.loop import Loop

STEPS, TOP = 3, 12


def top_kernels(loop: Loop) -> list[dict[str, Any]]:
    """The kernels (operations, on the CPU) that take most of a warm loop's steps: ms a step and share of them all."""
    on_gpu = loop.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=activities) as profiler:
        loop.train(STEPS)
        if on_gpu:
            torch.cuda.synchronize(loop.device)
    spent: dict[str, float] = {}
    for event in profiler.key_averages():
        if not on_gpu:
            spent[event.key] = event.self_cpu_time_total
        elif event.device_type != DeviceType.CPU and not event.is_user_annotation:
            # A kernel; what launched it, and what was going on meanwhile, have its time as well.
            spent[event.key] = event.self_device_time_total
    total = sum(spent.values())
    longest = sorted(spent.items(), key=lambda pair: -pair[1])[:TOP]
    return [{"kernel": key, "ms_a_step": us / 1e3 / STEPS, "share": us / total} for key, us in longest if us]
