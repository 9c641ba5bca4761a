"""What population based training may change in the middle of a run, and how far."""

from typing import TYPE_CHECKING

from sweeps.search.checks import refuse
from sweeps.search.domains import Choice, Domain, LogUniform, QUniform, RandInt, Scalar, Uniform
from sweeps.search.plan import follows_results
from sweeps.search.space import Space

if TYPE_CHECKING:
    from sweeps.engine.sweep import Sweep

MUTABLE = ("learning_rate", "weight_decay", "max_grad_norm")
"""Hyperparameters that fit any weights: the training loop alone reads them, and at every step."""


def mutable(space: Space) -> dict[str, Domain]:
    """The hyperparameters of a space that may change in the middle of a run, with their domains.

    Raises:
        SweepError: the space gives none of them a domain.
    """
    found = {name: space[name] for name in MUTABLE if isinstance(space.get(name), Domain)}
    if not found:
        remedy = "for example learning_rate=loguniform:1e-4:1e-1, or use another scheduler"
        refuse("space", f"must give pbt a domain of {', '.join(MUTABLE[:-1])} or {MUTABLE[-1]}", list(space), remedy)
    return found  # type: ignore[return-value]


def check_planned(sweep: "Sweep") -> None:
    """Sees to it that no searcher takes a result for that of the configuration it had chosen.

    Raises:
        SweepError: the sweep's searcher follows results.
    """
    if follows_results(sweep):
        condition = "must leave configurations as a searcher that follows results has chosen them"
        shown = sweep.scheduler if isinstance(sweep.scheduler, str) else type(sweep.scheduler).__name__
        refuse("scheduler", condition, shown, 'use another one, or searcher="random"')


def nearest(domain: Domain, value: Scalar) -> Scalar:
    """The value of a domain that lies nearest to a given one.

    Args:
        domain: where the value has to lie.
        value: a number; anything where the domain is a choice, which is then left as it is.
    """
    if isinstance(domain, Choice) or not isinstance(value, int | float):
        return value
    if isinstance(domain, RandInt):
        return min(max(round(value), domain.low), domain.high - 1)
    if isinstance(domain, QUniform):
        return domain.nearest(value)
    if isinstance(domain, Uniform | LogUniform):
        return min(max(value, domain.low), domain.high)
    return value
