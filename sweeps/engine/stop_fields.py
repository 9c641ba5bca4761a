"""When a run of the search ends before its budget: what a sweep declares of it."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING

from sweeps.search.checks import number, refuse, whole

if TYPE_CHECKING:
    from sweeps.engine.sweep import Sweep


def check_stopping(sweep: "Sweep") -> dict[str, object]:
    """The fields ``stop_at``, ``patience`` and ``min_delta``, normalized.

    Raises:
        SweepError: one is out of its range, or makes no sense without another.
    """
    checked: dict[str, object] = {
        "stop_at": _targets(sweep.stop_at),
        "min_delta": number("min_delta", sweep.min_delta, at_least=0, remedy="0 counts every gain"),
    }
    if sweep.patience is not None:
        remedy = "give a number of reports, or leave it out"
        checked["patience"] = whole("patience", sweep.patience, at_least=1, remedy=remedy)
    elif sweep.min_delta:
        refuse("min_delta", "needs patience", sweep.min_delta, "give the reports to wait for such a gain")
    return checked


def _targets(given: object) -> dict[str, float] | None:
    remedy = 'for example {"val_accuracy": 0.95}'
    if given is None:
        return None
    if not isinstance(given, Mapping) or not given or not all(isinstance(name, str) for name in given):
        refuse("stop_at", "must hold metrics and their values", given, remedy)
    for value in given.values():
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            refuse("stop_at", "must hold finite numbers", value, remedy)
    return {name: float(value) for name, value in given.items()}
