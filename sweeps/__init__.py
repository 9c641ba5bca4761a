"""Sweeps over precisions and hyperparameters on Ray: what is tried, and how the cluster tries it.

Declaring a sweep imports neither torch nor ray, so that ``--help`` answers at once.
"""

from typing import TYPE_CHECKING, Any

from sweeps.engine.sweep import Confirm, Sweep, SweepError
from sweeps.search.space import choice, loguniform, quniform, randint, uniform

if TYPE_CHECKING:
    from sweeps.engine.cli import main
    from sweeps.engine.stages import run

__all__ = [
    "Confirm",
    "Sweep",
    "SweepError",
    "choice",
    "loguniform",
    "main",
    "quniform",
    "randint",
    "run",
    "uniform",
]


def __getattr__(name: str) -> Any:
    """Loads what runs a sweep when it is first asked for."""
    if name == "main":
        from sweeps.engine.cli import main

        return main
    if name == "run":
        from sweeps.engine.stages import run

        return run
    raise AttributeError(f"module 'sweeps' has no attribute {name!r}")
