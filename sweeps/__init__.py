"""Sweeps over precisions and hyperparameters on Ray: what is tried, and how the cluster tries it.

Declaring a sweep imports neither torch nor ray, so that ``--help`` answers at once.
"""

from typing import TYPE_CHECKING, Any

from sweeps.engine.sweep import Confirm, Sweep, SweepError
from sweeps.search.space import choice, loguniform, quniform, randint, uniform

if TYPE_CHECKING:
    from sweeps.engine.cli import main, main_with_task
    from sweeps.engine.stages import run
    from sweeps.notebook import tune_model

__all__ = [
    "Confirm",
    "Sweep",
    "SweepError",
    "choice",
    "loguniform",
    "main",
    "main_with_task",
    "quniform",
    "randint",
    "run",
    "tune_model",
    "uniform",
]


def __getattr__(name: str) -> Any:
    """Loads what runs a sweep when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'sweeps' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


_LAZY = {
    "main": "sweeps.engine.cli",
    "main_with_task": "sweeps.engine.cli",
    "run": "sweeps.engine.stages",
    "tune_model": "sweeps.notebook",
}
