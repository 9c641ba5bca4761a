"""The task of :mod:`benchmarks.tracking`: its trials note how long trackers keep them, and may end those on the way."""

import contextlib
import functools
import json
import os
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch.utils.data import TensorDataset

from trainables import Task, tracked
from trainables.tracked import Tracked

NOTHING, SERVICE, PROCESS = range(3)
"""What a trial may end: W&B's own process, or the one in which trackers run."""

KILL_AT = 20
"""The step in which it does."""

REACTION_S = 30.0
"""How long it waits for what it is to end."""

CALLS = ("__init__", "saw", "wait")
"""What trials call of :class:`trainables.tracked.Tracked`: at their beginning, at each report, at their end."""

_current = ""
"""The trial that reported last in this process."""


def build(config: Mapping[str, Any]) -> Task:
    """A linear layer whose steps take no time.

    Args:
        config: ``times``: a folder for what is noted; ``kills``: whether trials end something; ``n``: of three in a
            row, one ends nothing, one W&B's own process, and one that in which trackers run.
    """
    if not hasattr(Tracked.saw, "__wrapped__"):
        for name in CALLS:
            setattr(Tracked, name, _noted(getattr(Tracked, name), Path(config["times"]) / f"{os.getpid()}.jsonl"))
    inputs = torch.linspace(-1, 1, 64 * 4).reshape(64, 4).sin()
    data = TensorDataset(inputs, (inputs.sum(1) > 0).long())
    return Task(nn.Linear(4, 2), data, data, loss=_Loss(config["n"] % 3 if config["kills"] else NOTHING))


def _noted(method: Callable[..., Any], file: Path) -> Callable[..., Any]:
    """The method, with a line in a file for each call."""

    @functools.wraps(method)
    def timed(self: Tracked, *args: Any, **more: Any) -> Any:
        global _current
        slept, began = _num_sleeps(), time.perf_counter()
        result = method(self, *args, **more)
        took, slept = time.perf_counter() - began, _num_sleeps() - slept
        _current = args[0].trial_id if method.__name__ == "saw" else _current
        with file.open("a") as lines:
            lines.write(json.dumps({"call": method.__name__, "s": took, "slept": slept}) + "\n")
        return result

    return timed


def _num_sleeps() -> int:
    """How often this thread has waited for something, as opposed to having been kept from a processor by others."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class _Loss:
    def __init__(self, kills: int) -> None:
        self._kills, self._steps = kills, 0

    def __call__(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        self._steps += torch.is_grad_enabled()
        if torch.is_grad_enabled() and self._steps == KILL_AT and _current and self._kills != NOTHING:
            _end(self._kills)
        return nn.functional.cross_entropy(outputs, batch[-1])


def _end(which: int) -> None:
    """Ends what tracks the current trial, once its run has begun."""
    courier = tracked._OUTBOX._courier
    assert courier is not None
    folder = Path(os.environ.get("WANDB_DIR") or courier.tracking.folder)
    deadline = time.monotonic() + REACTION_S
    while not any(folder.glob(f"wandb/*run-*-{courier.tracking.group}-*-{_current}/*.wandb")):
        assert time.monotonic() < deadline, f"no run of {_current} in {folder}"
        time.sleep(0.01)
    courier._hear()
    process = psutil.Process(courier.pid)
    ended = [process] if which == PROCESS else process.children(recursive=True)
    for each in ended:
        each.kill()
    while any(map(_is_at_work, ended)):
        assert time.monotonic() < deadline, f"{ended} live on"
        time.sleep(0.01)


def _is_at_work(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
