"""What is written behind a flag, read as the type of its field."""

import argparse
from collections.abc import Callable, Mapping
from typing import TypeVar

from sweeps.search.checks import SweepError
from sweeps.search.domains import Domain, Scalar
from sweeps.search.space import parse_domain

Number = TypeVar("Number", int, float)


def _reader(convert: Callable[[str], Number], what: str, example: str) -> Callable[[str], Number]:
    """Reads a number, and says in its error what is to be written."""

    def read(written: str) -> Number:
        try:
            return convert(written)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {what}, got {written!r}; for example {example}") from None

    return read


read_whole = _reader(int, "a whole number", "8")
"""The whole number that was written."""

read_number = _reader(float, "a number", "0.5")
"""The number that was written."""


def read_names(written: str) -> tuple[str, ...]:
    """The names that were written, separated by commas.

    Raises:
        ArgumentTypeError: it cannot be read so.
    """
    names = tuple(name.strip() for name in written.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(
            f"must not have an empty name, got {written!r}; separate names by single commas"
        )
    return names


def read_parameter(written: str) -> tuple[str, Domain | Scalar]:
    """The hyperparameter that was written, with its domain or value.

    Raises:
        ArgumentTypeError: it cannot be read so.
    """
    name, equals, domain = written.partition("=")
    if not name.strip() or not equals:
        remedy = "for example learning_rate=loguniform:1e-5:1e-3"
        raise argparse.ArgumentTypeError(f"must be NAME=DOMAIN, got {written!r}; {remedy}")
    try:
        return name.strip(), parse_domain(domain)
    except SweepError as error:
        raise argparse.ArgumentTypeError(f"{name.strip()}: {error}") from None


def read_target(written: str) -> tuple[str, float]:
    """The metric that was written, with its value.

    Raises:
        ArgumentTypeError: it cannot be read so.
    """
    name, _, value = written.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        remedy = "for example val_accuracy=0.95"
        raise argparse.ArgumentTypeError(f"must be NAME=NUMBER, got {written!r}; {remedy}") from None


def read_prices(written: str) -> float | dict[str, float]:
    """The price that was written, or the prices by name, separated by commas.

    Raises:
        ArgumentTypeError: it cannot be read so.
    """
    prices: dict[str, float] = {}
    entries = written.split(",")
    for entry in entries:
        name, equals, price = entry.rpartition("=")
        try:
            if not name.strip() and (equals or len(entries) > 1):
                raise ValueError("a price among others has a name")
            value = float(price)
        except ValueError:
            condition, remedy = "must be a number or NAME=NUMBER,...", "for example 0.4 or H100=12.3,cpu=0.4"
            raise argparse.ArgumentTypeError(f"{condition}, got {written!r}; {remedy}") from None
        if name.strip() in prices:
            condition, remedy = "must name each device once", "give one price for it"
            raise argparse.ArgumentTypeError(f"{condition}, got {written!r}; {remedy}")
        prices[name.strip()] = value
    return prices[""] if list(prices) == [""] else prices


FIELD_READERS: Mapping[str, Callable[[str], object]] = {"usd_per_hour": read_prices}
"""Readers of the flags whose type does not tell how to read them, by field."""

PAIR_READERS: Mapping[str, Callable[[str], tuple[str, object]]] = {"space": read_parameter, "stop_at": read_target}
"""Readers of the flags that give a name and a value, and may be repeated, by field."""

READERS: Mapping[type, Callable[[str], object]] = {
    int: read_whole,
    float: read_number,
    str: str,
    tuple: read_names,
}
"""Readers of a flag's text by the type of its field."""
