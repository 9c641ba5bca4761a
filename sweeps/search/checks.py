"""Checks of what users declare, with errors that say in one line what to do about it."""

import difflib
import math
from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import NoReturn

from trainables.ladder import LADDER
from trainables.text import one_line

LONGEST_VALUE = 80
"""Characters of a refused value that its error shows."""

MOST = 2**63 - 1
"""The highest count of anything: the results keep counts in 64 bits."""

MOST_RUNS = 1_000_000
"""The most runs of a search, and seeds of a confirmation: all are planned before the first one starts."""

LEAST_SHARE = 1e-4
"""The smallest share of a CPU or GPU that Ray accounts for."""


class SweepError(ValueError):
    """What was asked for cannot run; the message is one line: field, condition, value received, remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


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
    raise SweepError(f"{field}: {condition}, got {_shown(got)}; {remedy}")


def _shown(got: object) -> str:
    try:
        shown = repr(got)
    except ValueError:  # an int of more digits than Python converts
        shown = f"one of type {type(got).__name__} that is too long to show"
    return shown if len(shown) <= LONGEST_VALUE else shown[: LONGEST_VALUE - 3] + "..."


def whole(field: str, value: object, *, at_least: int, remedy: str, at_most: int = MOST) -> int:
    """The value as an int, where it is a whole number (and no bool) within the bounds, which count as within.

    Raises:
        SweepError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < at_least:
        refuse(field, f"must be a whole number of at least {at_least}", value, remedy)
    if int(value) > at_most:
        refuse(field, f"must be a whole number of at most {at_most}", value, remedy)
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
    if isinstance(value, bool) or not isinstance(value, Real) or not is_finite(value):
        refuse(field, condition, value, remedy)
    if (at_least is not None and value < at_least) or (above is not None and value <= above):
        refuse(field, condition, value, remedy)
    return float(value)


def share_of_gpus(field: str, value: object) -> float:
    """The value as a number of GPUs that Ray can hand out: 0, a share of one, or whole ones.

    Raises:
        SweepError: it is not.
    """
    gpus = number(field, value, at_least=0, remedy="0 trains on the CPU, 0.5 shares a GPU")
    if 0 < gpus < LEAST_SHARE:
        refuse(field, f"must be 0 or at least {LEAST_SHARE:g}", gpus, "0 trains on the CPU, 0.5 shares a GPU")
    if gpus > 1 and not gpus.is_integer():
        refuse(field, "must be whole above 1", gpus, f"round to {int(gpus)} or {int(gpus) + 1}")
    return gpus


def is_finite(value: Real) -> bool:
    """Whether a number is neither NaN nor infinite nor too large for a float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def one_of(field: str, value: object, known: Collection[str]) -> str:
    """The value, where it is one of the known names.

    Raises:
        SweepError: it is not; the error names the closest one and lists them all.
    """
    if not isinstance(value, str) or value not in known:
        refuse(field, "must be a known name", value, f"{did_you_mean(value, known)}valid: {', '.join(known)}")
    return value


def precision_names(field: str, value: object) -> tuple[str, ...]:
    """The value as a tuple, where it is a list of different names of the ladder.

    Raises:
        SweepError: it is not.
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        remedy = 'for example ("fp32", "bf16-mixed")'
        refuse(field, "must be a list of at least one precision", value, remedy)
    names = tuple(one_of(field, name, LADDER) for name in value)
    if len(set(names)) < len(names):
        refuse(field, "must name each precision once", ",".join(names), "remove the duplicates")
    return names


def text(field: str, value: object, remedy: str) -> str:
    """The value, where it is a string that is not blank and that any terminal and file can hold.

    Raises:
        SweepError: it is not.
    """
    if not isinstance(value, str) or not value.strip():
        refuse(field, "must be a string that is not empty", value, remedy)
    if not value.isprintable():
        refuse(field, "must have no control characters", value, remedy)
    return value


def folder_name(field: str, value: object) -> str:
    """The value, where it names one folder directly inside another.

    Raises:
        SweepError: it is empty, ``.`` or ``..``, or has a slash, a control character or outer blanks.
    """
    remedy = "give one plain folder name, such as 'first'"
    name = text(field, value, remedy)
    if name in (".", "..") or name != name.strip() or set(name) & set("/\\"):
        refuse(field, "must name a folder directly inside the storage folder", value, remedy)
    return name


def did_you_mean(value: object, known: Collection[str]) -> str:
    """``"did you mean X? "``, or an empty string where nothing comes close."""
    word = str(value)
    starting = [name for name in known if word and name.startswith(word)]
    close = starting or difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}? " if close else ""
