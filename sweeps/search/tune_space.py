"""Domains as Ray Tune's own, for its searchers; and what their suggestions stand for."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search.sample import Quantized

from sweeps.search.domains import Domain, QUniform, Scalar, scalar


def to_tune(domain: Domain) -> Any:
    """The domain of ``ray.tune`` that has the same values, each as likely."""
    return _TO_TUNE[domain.kind](domain)


def from_tune(field: str, value: object, domain: Domain | None) -> Scalar:
    """What a searcher's suggestion stands for, as a plain scalar.

    Args:
        field: name of the value in errors.
        value: suggested; NumPy's scalars are welcome.
        domain: what :func:`to_tune` was given, of which this is a value: whole numbers become ints, steps exact
            decimals. ``None`` where the searcher has a space of its own.

    Raises:
        SweepError: it is no scalar.
    """
    plain = scalar(field, value.item() if isinstance(value, np.generic) else value)
    return plain if domain is None else _FROM_TUNE[domain.kind](domain, plain)


def _stepped(domain: QUniform) -> Any:
    stepped = tune.uniform(domain.low, domain.high)
    # Not tune.quniform, which refuses bounds that are no multiples of q themselves, such as 0.05 with steps of 0.1.
    stepped.set_sampler(Quantized(stepped.get_sampler(), domain.q), allow_override=True)
    return stepped


_TO_TUNE: Mapping[str, Callable[[Any], Any]] = {
    "uniform": lambda domain: tune.uniform(domain.low, domain.high),
    "loguniform": lambda domain: tune.loguniform(domain.low, domain.high),
    "quniform": _stepped,
    "randint": lambda domain: tune.randint(domain.low, domain.high),
    "choice": lambda domain: tune.choice(list(domain.values)),
}

_FROM_TUNE: Mapping[str, Callable[[Any, Any], Scalar]] = {
    "uniform": lambda domain, value: float(value),
    "loguniform": lambda domain, value: float(value),
    "quniform": lambda domain, value: domain.nearest(float(value)),
    "randint": lambda domain, value: round(value),
    "choice": lambda domain, value: value,
}
