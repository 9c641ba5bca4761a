"""What times the steps of a window."""

import time

import torch


class HostClock:
    """Wall time per step."""

    def __init__(self) -> None:
        self._ticks: list[float | None] = []

    def tick(self) -> None:
        """A step has ended."""
        self._ticks.append(time.perf_counter())

    def restart(self) -> None:
        """A step begins that none of the time before it belongs to."""
        self._ticks.append(None)
        self.tick()

    def step_ms(self) -> list[float]:
        """Times of the steps in ms."""
        pairs = zip(self._ticks, self._ticks[1:], strict=False)
        return [1e3 * (b - a) for a, b in pairs if a is not None and b is not None]


class CudaClock(HostClock):  # pragma: gpu
    """Device time per step, from events that the host does not wait for until the window ends."""

    def __init__(self) -> None:
        super().__init__()
        torch.cuda.synchronize()
        self._events: list[torch.cuda.Event | None] = []

    def tick(self) -> None:
        """A step has ended."""
        super().tick()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append(event)

    def restart(self) -> None:
        """A step begins that none of the time before it belongs to."""
        self._events.append(None)
        self.tick()

    def step_ms(self) -> list[float]:
        """Times of the steps in ms."""
        torch.cuda.synchronize()
        pairs = zip(self._events, self._events[1:], strict=False)
        return [a.elapsed_time(b) for a, b in pairs if a is not None and b is not None]
