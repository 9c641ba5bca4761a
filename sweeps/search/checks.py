"""Checks of what users declare, with errors that say in one line what to do about it."""

import difflib
import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import NoReturn

LONGEST_VALUE = 80
"""Characters of a refused value that its error shows."""


class SweepError(ValueError):
    """What was asked for cannot run; the message is one line: field, condition, value received, remedy."""


class Unfinished(RuntimeError):
    """A sweep could not go on; the message is one line: why, and that what it measured so far is kept."""


def refuse(field: str, condition: str, got: object, remedy: str) -> NoReturn:
    """Raises the error that says why a value cannot be used.

    Args:
        field: the name by which the user knows the value, e.g. ``"num_trials"``.
        condition: what it has to be, e.g. ``"must be at least 1"``.
        got: the value received.
        remedy: what to do about it.

    Raises:
        SweepError: always.
    """
    shown = repr(got)
    if len(shown) > LONGEST_VALUE:
        shown = shown[: LONGEST_VALUE - 3] + "..."
    raise SweepError(f"{field}: {condition}, got {shown}; {remedy}".replace("\n", " "))


def whole(field: str, value: object, *, at_least: int, remedy: str) -> int:
    """The value as an int, where it is a whole number (and no bool) of at least ``at_least``.

    Raises:
        SweepError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < at_least:
        refuse(field, f"must be a whole number of at least {at_least}", value, remedy)
    return int(value)


def number(
    field: str, value: object, *, remedy: str, at_least: float | None = None, above: float | None = None
) -> float:
    """The value as a float, where it is a finite number (and no bool) within the given bound.

    Args:
        field: name of the value in errors.
        value: what was given.
        remedy: what to do where it is refused.
        at_least: inclusive lower bound.
        above: exclusive lower bound.

    Raises:
        SweepError: it is not.
    """
    condition = "must be a finite number"
    if at_least is not None:
        condition += f" of at least {at_least:g}"
    if above is not None:
        condition += f" above {above:g}"
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        refuse(field, condition, value, remedy)
    if (at_least is not None and value < at_least) or (above is not None and value <= above):
        refuse(field, condition, value, remedy)
    return float(value)


def one_of(field: str, value: object, known: Collection[str]) -> str:
    """The value, where it is one of the known names.

    Raises:
        SweepError: it is not; the error names the closest one and lists them all.
    """
    if not isinstance(value, str) or value not in known:
        refuse(field, "must be a known name", value, f"{did_you_mean(value, known)}valid: {', '.join(known)}")
    return value


def text(field: str, value: object, remedy: str) -> str:
    """The value, where it is a string that is not blank.

    Raises:
        SweepError: it is not.
    """
    if not isinstance(value, str) or not value.strip():
        refuse(field, "must be a string that is not empty", value, remedy)
    return value


def folder_name(field: str, value: object) -> str:
    """The value, where it names one folder directly inside another.

    Raises:
        SweepError: it is empty, ``.`` or ``..``, or has a slash, a control character or outer blanks.
    """
    remedy = "give one plain folder name, such as 'first'"
    name = text(field, value, remedy)
    if name in (".", "..") or name != name.strip() or set(name) & set("/\\") or not name.isprintable():
        refuse(field, "must name a folder directly inside the storage folder", value, remedy)
    return name


def did_you_mean(value: object, known: Collection[str]) -> str:
    """``"did you mean X? "``, or an empty string where nothing comes close."""
    word = str(value)
    starting = [name for name in known if word and name.startswith(word)]
    close = starting or difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}? " if close else ""
