"""What a search may cost, in money or hours, before it ends."""

from typing import TYPE_CHECKING

from sweeps.engine.cost_fields import BUDGETS
from sweeps.engine.meter import SECONDS_PER_HOUR, Meter

if TYPE_CHECKING:
    from sweeps.engine.sweep import Sweep


class SearchBudget:
    """Says when a search has spent what it may; once it has, it stays so.

    Args:
        sweep: its ``budget_usd`` and ``budget_hours``.
        meter: knows what has been spent.

    ``spent`` names the budget that was spent first, with its limit; it is empty until then.
    """

    def __init__(self, sweep: "Sweep", meter: Meter) -> None:
        self._limits = {name: limit for name in BUDGETS if (limit := getattr(sweep, name)) is not None}
        self._meter = meter
        self.spent = ""

    def is_spent(self) -> bool:
        """Whether one of them is spent by now, running trials included."""
        for name, limit in self._limits.items():
            if not self.spent and self._value(name) >= limit:
                self.spent = f"{name} {limit:g}"
        return bool(self.spent)

    def _value(self, name: str) -> float:
        return self._meter.spent_usd if name == "budget_usd" else self._meter.run_s / SECONDS_PER_HOUR
