"""Other work on the processors or the GPU while arms were timed: how much it disturbed them, and whose it was."""

import os
import re
import socket
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trainables.gpu_state import GpuWatch
from trainables.team import Team

CONTENDED_ABOVE = 0.1
"""Share of a window that a thread may wait for a processor; above, other work disturbed the window."""

WORTH_NAMING = 0.05
"""Processors that a process must have used on average to be named as the one that disturbed a window."""


def is_contended(waited: Sequence[float | None]) -> bool | None:
    """Whether a round of windows shared the processor with other work; ``None`` where the system does not tell.

    Args:
        waited: share of each window in which a thread of this process was ready to run and was kept waiting.
    """
    known = [share for share in waited if share is not None]
    return any(share > CONTENDED_ABOVE for share in known) if known else None


def waiting_ns() -> dict[str, int]:
    """Thread -> nanoseconds that it was ready to run while other work held the processors, since it began.

    Waiting for data, a lock or a device does not count. Empty where the system does not tell (Linux: ``schedstat``).
    """
    found = {}
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # threads come and go
            found[file.parent.name] = int(file.read_text().split()[1])
    return found


def idle_s() -> float | None:
    """Seconds that the processors which this process may use were idle since the system began; ``None``: not told."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    fields = {int(line.split()[0][3:]): line.split() for line in lines if re.match(r"cpu\d", line)}
    ticks = sum(int(fields[own][4]) + int(fields[own][5]) for own in os.sched_getaffinity(0) if own in fields)
    return float(ticks / os.sysconf("SC_CLK_TCK"))


@dataclass(frozen=True)
class Seen:
    """What one worker of a trial saw of its machine's processors over some time.

    Args:
        host: its machine.
        waited: share of the time that a thread of it waited; ``None`` where the system does not tell.
        busy: processors in use on average, by whatever work; ``None`` where the system does not tell.
        used: processors that it used itself.
    """

    host: str
    waited: float | None
    busy: float | None
    used: float


def waited_for_others(seen: Sequence[Seen]) -> float | None:
    """The largest share of the time that a worker's thread waited for other work than the trial's.

    No thread can have waited for longer than other work ran.

    Args:
        seen: by each worker of the trial.
    """
    shares = []
    for one in seen:
        own = sum(other.used for other in seen if other.host == one.host)
        if one.waited is not None:
            shares.append(one.waited if one.busy is None else min(one.waited, max(0.0, one.busy - own)))
    return max(shares, default=None)


class OtherWork:
    """What ran on the processors beside a trial, from now on.

    Workers of a trial that fill a machine keep each other waiting, and the threads that they speak to each other by:
    that is how the trial runs, and no disturbance.

    Args:
        team: whose workers all look at the same time.
    """

    def __init__(self, team: Team) -> None:
        self._team, self._started, self._own_s = team, time.perf_counter(), time.process_time()
        self._idle_s = idle_s() if team.size > 1 else None

    def waited(self, waited: float | None) -> float | None:
        """The largest share of the time that a worker's thread waited for other work.

        Args:
            waited: share that a thread of this worker waited for whatever ran.
        """
        if self._team.size == 1:
            return waited
        elapsed_s, idle = time.perf_counter() - self._started, idle_s()
        busy = None
        if idle is not None and self._idle_s is not None:
            busy = len(os.sched_getaffinity(0)) - (idle - self._idle_s) / elapsed_s
        used = (time.process_time() - self._own_s) / elapsed_s
        found = self._team.gather(Seen(socket.gethostname(), waited, busy, used))
        return waited_for_others(found)


def processor_s() -> dict[int, tuple[str, float, int]]:
    """Process -> (its name, seconds of processor time since it began, the processor that it ran on last).

    Of those that this one may see.
    """
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):  # processes come and go
            start, _, rest = file.read_text().rpartition(")")
            fields = rest.split()
            seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            found[int(file.parent.name)] = (start.partition("(")[2], seconds, int(fields[36]))
    return found


class Neighbours:
    """The other processes of the machine, from now on.

    Args:
        gpu: the watch of the GPU that is timed; ``None`` on a CPU.
        own: processes of this machine that do the work that is timed, where they are more than this one.
    """

    def __init__(self, gpu: GpuWatch | None = None, own: Collection[int] = ()) -> None:
        self._gpu, self._since_s, self._own = gpu, time.time(), {os.getpid(), *own}
        self._before, self._started = processor_s(), time.monotonic()

    def on_the_processors(self) -> str:
        """The process that used most processor time since, in words; of those that ran last where this one may run."""
        elapsed, own = time.monotonic() - self._started, os.sched_getaffinity(0)
        used = {
            (name, pid): (seconds - self._before.get(pid, ("", 0.0, 0))[1]) / elapsed
            for pid, (name, seconds, processor) in processor_s().items()
            if pid not in self._own and processor in own
        }
        (name, pid), processors = max(used.items(), key=lambda item: item[1], default=(("", 0), 0.0))
        if processors < WORTH_NAMING:
            return "no other process that can be seen from here was busy"
        return f"busiest other process: {name} (pid {pid}, {processors:.2g} processors)"

    def on_the_gpu(self) -> str | None:
        """The other process that used the GPU since, in words; ``None`` where none did, or that is unknown."""
        found = self._gpu.busiest_other(self._since_s) if self._gpu is not None else None
        if found is None:
            return None
        pid, percent = found
        return f"another process used the GPU for {percent} % of its time" + (f" (pid {pid})" if pid else "")

    def reason(self, contended: bool | None, waited: Sequence[float | None]) -> str | None:
        """Why a timing is contended, in a clause; ``None`` where it is not.

        Args:
            contended: whether windows that count waited for a processor.
            waited: share of each window that a thread waited.
        """
        longest = max((share for share in waited if share is not None), default=0.0)
        clauses = [self.on_the_gpu()]
        if contended:
            clauses.append(
                f"threads waited up to {longest:.0%} of a window for a processor; {self.on_the_processors()}"
            )
        return "; ".join(clause for clause in clauses if clause) or None
