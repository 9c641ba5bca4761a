"""Where the workers of one trial find each other. Plain data that travels to them; imports no torch."""

from dataclasses import dataclass


class WorkerLost(RuntimeError):
    """Another worker of the trial went away without a word."""


@dataclass(frozen=True)
class Meeting:
    """Where the workers of a trial find each other, and which of them this process is.

    Args:
        rank: of this process, from 0.
        size: number of workers, at least 2.
        host, port: of the store that :func:`trainables.team.open_store` opened; it stays open until they are done.
        name: tells meetings at the same store apart.
    """

    rank: int
    size: int
    host: str
    port: int
    name: str = ""
