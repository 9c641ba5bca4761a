"""Search spaces: hyperparameters by name, checked, read from flags, and turned into plain data and back."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sweeps.search.checks import SweepError, did_you_mean, refuse, text
from sweeps.search.domains import (
    DOMAINS,
    Choice,
    Domain,
    Scalar,
    choice,
    loguniform,
    quniform,
    randint,
    scalar,
    uniform,
)
from sweeps.search.hyperparameters import check_values, telling_values

__all__ = [
    "Domain",
    "Scalar",
    "Space",
    "check_space",
    "choice",
    "from_json",
    "loguniform",
    "parse_domain",
    "parse_scalar",
    "quniform",
    "randint",
    "space_to_json",
    "uniform",
]

RESERVED = {
    "precision": "name the precisions in `precisions`; every configuration is crossed with them",
    "seed": "set `seed` of the sweep; each configuration's own seed derives from it",
}
"""Names that a space may not use, each with the remedy."""

Space = Mapping[str, Domain | Scalar]
"""Hyperparameters by name; a plain scalar is a constant."""


def check_space(space: object) -> dict[str, Domain | Scalar]:
    """The space with plain constants.

    Args:
        space: a mapping from names to domains or scalars.

    Raises:
        SweepError: a name is reserved or not a string, a value is neither a domain nor a scalar, or a hyperparameter
            that the loop reads may get a value that it cannot use.
    """
    if not isinstance(space, Mapping):
        refuse("space", "must map names to domains", space, 'for example {"learning_rate": loguniform(1e-5, 1e-3)}')
    checked: dict[str, Domain | Scalar] = {}
    for name, value in space.items():
        text("space", name, "name each hyperparameter by a string")
        if name in RESERVED:
            refuse("space", "cannot hold the precision or the seed", name, RESERVED[name])
        checked[name] = value if isinstance(value, Domain) else scalar(f"space[{name!r}]", value)
    check_values({name: telling_values(value) for name, value in checked.items()}, "space['{}']")
    return checked


def parse_domain(written: str) -> Domain | Scalar:
    """The domain or constant that a flag wrote.

    Args:
        written: e.g. ``loguniform:1e-5:1e-3``, ``choice:128,256``; what is no domain is a constant: ``64``.

    Raises:
        SweepError: the domain's name is misspelt, or its bounds are missing or wrong.
    """
    kind, colon, bounds = written.partition(":")
    if kind == "choice" and colon:
        return Choice([_parse_member(member) for member in bounds.split(",")] if bounds else [])
    if kind in DOMAINS:
        return _parse_bounds(kind, bounds)
    misspelt = did_you_mean(kind, DOMAINS) if colon else ""
    if misspelt or _LIKE_A_DOMAIN.fullmatch(written):
        remedy = misspelt.strip() or "use one of them"
        refuse("domain", f"must be one of {', '.join(DOMAINS)} or a constant", written, remedy)
    return parse_scalar(written)


_LIKE_A_DOMAIN = re.compile(r"[a-z_]+(:[-+.0-9e]+){2,}|[a-z_]+:[^:/\s]+,\S*", re.IGNORECASE)
"""A word with bounds or a list, as ``normal:0:1``: a domain of a kind that there is not, rather than a constant."""


def parse_scalar(written: str) -> Scalar:
    """The int, float, boolean or else string that a flag wrote.

    Raises:
        SweepError: nothing was written, or NaN or an infinity.
    """
    stripped = written.strip()
    if not stripped:
        refuse("value", "must not be empty", written, "write a number, true, false or a word")
    if stripped.lower() in ("true", "false"):
        return stripped.lower() == "true"
    for convert in (int, float):
        try:
            return scalar("value", convert(stripped))
        except SweepError:
            raise
        except ValueError:
            continue
    return stripped


def from_json(data: object) -> Domain | Scalar:
    """The domain or constant that :meth:`Domain.to_json` described.

    Raises:
        SweepError: it describes none.
    """
    if not isinstance(data, Mapping):
        return scalar("space", data)
    bounds = dict(data)
    kind = bounds.pop("domain", None)
    if kind not in DOMAINS:
        refuse("domain", "must be a known name", kind, f"valid: {', '.join(DOMAINS)}")
    try:
        return DOMAINS[kind](**bounds)
    except TypeError:
        refuse(kind, "must have its bounds and nothing else", bounds, "see the domain's arguments")


def space_to_json(space: Space) -> dict[str, Any]:
    """The space as plain data: constants as they are, domains as :meth:`Domain.to_json` describes them."""
    return {name: value.to_json() if isinstance(value, Domain) else value for name, value in space.items()}


def _parse_member(written: str) -> Scalar:
    if not written.strip():
        refuse("choice.values", "must not have an empty value", written, "for example choice:128,256")
    return parse_scalar(written)


def _parse_bounds(kind: str, written: str) -> Domain:
    names = [field.name for field in fields(DOMAINS[kind])]
    bounds = written.split(":") if written else []
    if len(bounds) != len(names):
        refuse(
            kind, f"must be written {':'.join([kind, *names])}", ":".join([kind, *bounds]), "for example uniform:0:1"
        )
    return DOMAINS[kind](*map(parse_scalar, bounds))
