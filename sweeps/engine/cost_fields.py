"""What nodes cost, and what a search may: the fields of a sweep that are about money and hours."""

from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING

from sweeps.engine.prices import words_of
from sweeps.search.checks import is_finite, number, refuse

if TYPE_CHECKING:
    from sweeps.engine.sweep import Sweep

BUDGETS = ("budget_usd", "budget_hours")
"""What may end a search, by field."""


def check_costs(sweep: "Sweep") -> dict[str, object]:
    """The fields ``usd_per_hour``, ``budget_usd`` and ``budget_hours``, normalized.

    Raises:
        SweepError: one is out of its range, or makes no sense without another.
    """
    checked: dict[str, object] = {"usd_per_hour": _prices(sweep.usd_per_hour)}
    for name in BUDGETS:
        value = getattr(sweep, name)
        if value is None:
            continue
        checked[name] = number(name, value, above=0, remedy="leave it out for a search without such a limit")
        if sweep.num_trials == 0:
            refuse(name, "needs a search that it may end, and num_trials is 0", value, "leave it out")
    if sweep.budget_usd is not None and sweep.usd_per_hour is None:
        refuse("budget_usd", "needs usd_per_hour, the price of a node", sweep.budget_usd, "give it, or budget_hours")
    return checked


def _prices(given: object) -> float | dict[str, float] | None:
    remedy = 'give the price of a node, or prices by device such as {"H100": 12.3, "cpu": 0.4}'
    if given is None:
        return None
    if not isinstance(given, Mapping):
        return number("usd_per_hour", given, above=0, remedy=remedy)
    if not given:
        refuse("usd_per_hour", "must hold a price", given, remedy)
    for name, price in given.items():
        if not isinstance(name, str) or not words_of(name) or not name.isprintable():
            refuse("usd_per_hour", "must hold prices by names of devices or node types", name, remedy)
        if isinstance(price, bool) or not isinstance(price, Real) or not is_finite(price) or price <= 0:
            refuse("usd_per_hour", f"must hold finite prices above 0 ({name})", price, "leave out what has no price")
    if len({frozenset(words_of(name)) for name in given}) < len(given):
        refuse("usd_per_hour", "must name each device once", ",".join(given), "give one price for it")
    return {name: float(price) for name, price in given.items()}
