"""Domains that hyperparameters are drawn from. Names and bounds are Ray Tune's."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, ClassVar

from sweeps.search.checks import is_finite, number, refuse

Scalar = bool | int | float | str | None
"""A value that a configuration may hold."""

_DRAW_DIGITS = 30
"""Decimal digits of the logarithms behind a log-uniform draw: enough that the float nearest to the result is exact."""


@dataclass(frozen=True)
class Domain(ABC):
    """Values that one hyperparameter may take, and how they are drawn."""

    kind: ClassVar[str]

    @abstractmethod
    def draw(self, unit: float) -> Scalar:
        """The value at a position, the same on every platform.

        Args:
            unit: where in the domain, in [0, 1); uniform positions give the domain's distribution.
        """

    def to_json(self) -> dict[str, Any]:
        """The domain as plain data, as :func:`from_json` takes it."""
        return {"domain": self.kind, **asdict(self)}

    def __str__(self) -> str:
        """The domain as ``--space`` takes it, e.g. ``loguniform:1e-05:0.001``."""
        bounds = [str(getattr(self, field.name)) for field in fields(self)]
        return ":".join([self.kind, *bounds])


@dataclass(frozen=True)
class Uniform(Domain):
    """Floats between two bounds, each equally likely.

    Args:
        low: lower bound.
        high: upper bound, above ``low``.

    Raises:
        SweepError: a bound is not finite, or they are equal or reversed.
    """

    low: float
    high: float
    kind: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        """Validates the bounds."""
        _float_bounds(self)

    def draw(self, unit: float) -> float:
        """The float a share ``unit`` of the way up."""
        return min(max(self.low * (1.0 - unit) + self.high * unit, self.low), self.high)


@dataclass(frozen=True)
class LogUniform(Domain):
    """Floats between two positive bounds, each order of magnitude equally likely.

    Args:
        low: lower bound, above 0.
        high: upper bound, above ``low``.

    Raises:
        SweepError: a bound is not finite or not positive, or they are equal or reversed.
    """

    low: float
    high: float
    kind: ClassVar[str] = "loguniform"

    def __post_init__(self) -> None:
        """Validates the bounds."""
        number("loguniform.low", self.low, above=0, remedy="use uniform where values may be 0 or negative")
        _float_bounds(self)

    def draw(self, unit: float) -> float:
        """The float a share ``unit`` of the way up in logarithm, the same on every platform."""
        # The C library's exp and log differ between platforms in the last digit; decimal's are correctly rounded.
        with localcontext(Context(prec=_DRAW_DIGITS)):
            low, high = Decimal(self.low).ln(), Decimal(self.high).ln()
            return float((low + Decimal(unit) * (high - low)).exp())


@dataclass(frozen=True)
class QUniform(Domain):
    """The floats ``low``, ``low + q``, ... ``high``, each equally likely.

    Args:
        low: the lowest value.
        high: the highest value, a whole number of steps above ``low``.
        q: the step, above 0.

    Raises:
        SweepError: a bound or the step is not finite, the bounds are equal or reversed, or ``q`` does not divide them
            or is too small for them.
    """

    low: float
    high: float
    q: float
    kind: ClassVar[str] = "quniform"

    def __post_init__(self) -> None:
        """Validates the bounds and the step."""
        _float_bounds(self)
        object.__setattr__(self, "q", number("quniform.q", self.q, above=0, remedy="give a positive step"))
        if self._steps.denominator != 1:
            remedy = "choose bounds a whole number of steps apart"
            refuse("quniform.q", f"must divide the range from {self.low} to {self.high}", self.q, remedy)
        _few_enough("quniform.q", int(self._steps) + 1, self.q)

    @property
    def _steps(self) -> Fraction:
        return (_exact(self.high) - _exact(self.low)) / _exact(self.q)

    def draw(self, unit: float) -> float:
        """The step a share ``unit`` of the way up, in exact decimals: 0.3, not 0.30000000000000004."""
        return self._step(_position(unit, int(self._steps) + 1))

    def nearest(self, value: float) -> float:
        """The step nearest to a finite value, in exact decimals."""
        return self._step(min(max(round((_exact(value) - _exact(self.low)) / _exact(self.q)), 0), int(self._steps)))

    def _step(self, number: int) -> float:
        return float(_exact(self.low) + number * _exact(self.q))


@dataclass(frozen=True)
class RandInt(Domain):
    """Whole numbers from ``low`` to ``high - 1``, each equally likely.

    Args:
        low: the lowest value.
        high: exclusive upper bound, above ``low``.

    Raises:
        SweepError: a bound is not a whole number, they are equal or reversed, or too far apart.
    """

    low: int
    high: int
    kind: ClassVar[str] = "randint"

    def __post_init__(self) -> None:
        """Validates the bounds."""
        for name in ("low", "high"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral):
                refuse(f"randint.{name}", "must be a whole number", value, "use uniform for fractions")
            object.__setattr__(self, name, int(value))
        _in_order(self)
        _few_enough("randint.high", self.high - self.low, self.high)

    def draw(self, unit: float) -> int:
        """The whole number a share ``unit`` of the way up."""
        return self.low + _position(unit, self.high - self.low)


@dataclass(frozen=True)
class Choice(Domain):
    """One of several values, each equally likely.

    Args:
        values: numbers, strings, booleans or ``None``; at least one.

    Raises:
        SweepError: no values, or one that is not a plain scalar.
    """

    values: Sequence[Scalar]
    kind: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        """Validates the values."""
        given: object = self.values
        if not isinstance(given, Sequence) or isinstance(given, str) or not given:
            refuse("choice.values", "must be a list of at least one value", given, "for example choice([128, 256])")
        object.__setattr__(self, "values", tuple(scalar("choice.values", value) for value in given))

    def draw(self, unit: float) -> Scalar:
        """The value a share ``unit`` of the way along."""
        return self.values[_position(unit, len(self.values))]

    def to_json(self) -> dict[str, Any]:
        """The domain as plain data, as :func:`from_json` takes it."""
        return {"domain": self.kind, "values": list(self.values)}

    def __str__(self) -> str:
        """The domain as ``--space`` takes it, e.g. ``choice:128,256``."""
        return f"{self.kind}:{','.join(map(format_scalar, self.values))}"


uniform, loguniform, quniform, randint, choice = Uniform, LogUniform, QUniform, RandInt, Choice

DOMAINS: Mapping[str, type[Domain]] = {
    "uniform": Uniform,
    "loguniform": LogUniform,
    "quniform": QUniform,
    "randint": RandInt,
    "choice": Choice,
}
"""Every domain by the name that scripts and flags use."""


def scalar(field: str, value: object) -> Scalar:
    """The value as a plain Python scalar (NumPy's numbers included).

    Args:
        field: name of the value in errors.
        value: what was given.

    Raises:
        SweepError: it is not a finite number, a string, a boolean or ``None``.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _encodable(field, value)
    if isinstance(value, Real) and is_finite(value):
        return int(value) if isinstance(value, Integral) else float(value)
    remedy = "give one, or a domain such as choice(...)"
    if isinstance(value, list | tuple):
        remedy = f"write choice({list(value)!r})"
    refuse(field, "must be a finite number, a string, a boolean or None", value, remedy)


def _encodable(field: str, value: str) -> str:
    """The string, where it can be sent and written: some bytes of a command line or a file are no text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(field, "must be text that UTF-8 can hold", value, "write it in UTF-8")
    return value


def format_scalar(value: Scalar) -> str:
    """The scalar as :func:`parse_scalar` reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _float_bounds(domain: Domain) -> None:
    """Makes ``low`` and ``high`` finite floats in order."""
    for name in ("low", "high"):
        value = number(f"{domain.kind}.{name}", getattr(domain, name), remedy="give a finite bound")
        object.__setattr__(domain, name, value)
    _in_order(domain)


def _in_order(domain: Any) -> None:
    if domain.low >= domain.high:
        remedy = "swap them" if domain.low > domain.high else "write a constant where only one value is meant"
        refuse(domain.kind, "low must be below high", (domain.low, domain.high), remedy)


def _few_enough(field: str, count: int, value: float) -> None:
    """Positions have 53 bits: of more values, not every one could be drawn."""
    if count > 2**53:
        refuse(field, "must leave at most 2**53 values", value, "use uniform, or a narrower range")


def _exact(value: float) -> Fraction:
    """The decimal number that a float stands for: 1/10 for 0.1."""
    return Fraction(repr(value))


def _position(unit: float, count: int) -> int:
    """Which of ``count`` equal parts of [0, 1) a position lies in."""
    return min(int(unit * count), count - 1)
