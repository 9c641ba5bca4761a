"""Configurations: drawn at random, spread evenly, all of a grid, or read from a file."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeps.search.checks import one_of, refuse, text, whole
from sweeps.search.domains import Choice, Domain, Scalar, scalar
from sweeps.search.hyperparameters import check_values
from sweeps.search.space import Space
from trainables.ladder import LADDER

Configuration = dict[str, Scalar]
"""Hyperparameters by name, without precision and seed."""

HIGHEST_SEED = 2**32 - 1
"""The highest seed that every random number generator in use takes."""


def stream(*key: str | int) -> int:
    """A number of 64 bits that depends on the key alone: the same in every process, platform and Python version.

    Args:
        key: what the number is for, e.g. ``("seed", 0, 7)``; different keys give independent numbers.
    """
    return int.from_bytes(hashlib.sha256(json.dumps(key).encode()).digest()[:8], "big")


def sample(space: Space, seed: int, index: int) -> Configuration:
    """Configuration number ``index``, which depends on the seed and the index and nothing else.

    Args:
        space: what to draw from. A parameter's value does not depend on the other parameters.
        seed: the sweep's seed, at least 0.
        index: which configuration, at least 0.
    """
    return {
        name: value.draw(_unit("configuration", seed, index, name)) if isinstance(value, Domain) else value
        for name, value in space.items()
    }


def samples(space: Space, seed: int) -> Iterator[Configuration]:
    """Configurations 0, 1, 2, ... without end."""
    return (sample(space, seed, index) for index in itertools.count())


def grid(space: Space) -> Iterator[Configuration]:
    """All combinations of the choices and constants; the last parameter varies fastest.

    Raises:
        SweepError: a parameter is neither a choice nor a constant.
    """
    values = [_grid_values(name, value) for name, value in space.items()]
    return (dict(zip(space, combination, strict=True)) for combination in itertools.product(*values))


def sobol(space: Space, seed: int) -> Iterator[Configuration]:
    """Configurations of a scrambled Sobol' sequence, without end: they cover the space more evenly than random ones.

    Each depends on the space, the seed and its own number alone, not on the order of the space's names.

    Args:
        space: what to draw from; constants take no dimension.
        seed: the sweep's seed, at least 0.

    Source:
        Owen (1998), "Scrambling Sobol' and Niederreiter-Xing points", as ``scipy.stats.qmc.Sobol`` does it.
    """
    import numpy as np
    from scipy.stats import qmc  # half a second to import, which no other searcher needs

    dimension = {
        name: number for number, name in enumerate(sorted(n for n, v in space.items() if isinstance(v, Domain)))
    }
    sequence = qmc.Sobol(max(1, len(dimension)), rng=np.random.default_rng(stream("sobol", seed)))
    while True:
        units = sequence.random(1)[0].tolist()
        yield {
            name: value.draw(units[dimension[name]]) if isinstance(value, Domain) else value
            for name, value in space.items()
        }


PLANNED: Mapping[str, Callable[[Space, int], Iterator[Configuration]]] = {
    "random": samples,
    "grid": lambda space, seed: grid(space),
    "sobol": sobol,
}
"""How configurations are chosen ahead of all results, by name: from the space and the sweep's seed."""

SEARCHERS = (*PLANNED, "tpe")
"""Every searcher by name; Ray's own are given as objects."""


def check_searcher(searcher: object, space: Space | None) -> None:
    """Refuses what cannot choose configurations.

    Args:
        searcher: a name or an object.
        space: what it is to choose from; ``None`` where points are given instead.

    Raises:
        SweepError: it is neither a known name nor like a Ray Tune searcher, or the space does not suit it.
    """
    if isinstance(searcher, str):
        one_of("searcher", searcher, SEARCHERS)
    elif isinstance(searcher, type) or not hasattr(searcher, "suggest"):
        remedy = f"use one of {', '.join(SEARCHERS)}, or an object such as OptunaSearch()"
        refuse("searcher", "must be a name or a Ray Tune Searcher", searcher, remedy)
    if space is not None and searcher == "grid":
        grid(space)
    if space is not None and searcher == "tpe" and not any(isinstance(value, Domain) for value in space.values()):
        remedy = "add a domain such as loguniform(1e-5, 1e-3), or use random"
        refuse("searcher", "tpe needs a space that leaves something open", searcher, remedy)


def config_id(config: Mapping[str, Scalar]) -> str:
    """8 hexadecimal digits that name a configuration, whatever the order of its keys.

    Args:
        config: hyperparameters without precision and seed. Values of different type differ: 64 is not 64.0.
    """
    canonical = json.dumps(dict(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def read_points(path: str) -> list[dict[str, Scalar]]:
    """The configurations of a file, in order.

    Args:
        path: JSON lines, an object of hyperparameters each; ``precision`` and ``seed`` may be among the keys (``null``
            counts as absent). Blank lines are skipped.

    Raises:
        SweepError: the file cannot be read or holds no point, a line is not such an object, or two lines name different
            hyperparameters.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        refuse("points", f"must be a readable file of JSON lines ({error})", path, "check the path")
    points: list[dict[str, Scalar]] = []
    for line_number, line in enumerate(lines, start=1):
        if line.strip():
            points.append(_read_point(f"points, line {line_number}", line))
            _same_names(f"points, line {line_number}", points[0], points[-1])
    if not points:
        refuse("points", "must hold at least one line", path, 'add lines such as {"learning_rate": 0.001}')
    return points


def split_point(point: Mapping[str, Scalar]) -> tuple[Configuration, str | None, int | None]:
    """A point's hyperparameters, its own precision and its own seed (``None`` where it has none)."""
    config = {name: value for name, value in point.items() if name not in ("precision", "seed")}
    precision, seed = point.get("precision"), point.get("seed")
    return config, None if precision is None else str(precision), None if seed is None else int(seed)


def _unit(*key: str | int) -> float:
    """A position in [0, 1) that depends on the key alone: the 53 bits that a float holds."""
    return (stream(*key) >> 11) * 2.0**-53


def _grid_values(name: str, value: Domain | Scalar) -> tuple[Scalar, ...]:
    if isinstance(value, Choice):
        return tuple(value.values)
    if isinstance(value, Domain):
        remedy = 'list the values with choice([...]) or use searcher="random"'
        refuse(f"space[{name!r}]", "must be a choice or a constant in a grid", str(value), remedy)
    return (value,)


def _read_point(where: str, line: str) -> dict[str, Scalar]:
    try:
        point: Any = json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        point = None
    if not isinstance(point, dict):
        remedy = 'write {"learning_rate": 0.001, "precision": "fp32"}'
        refuse(where, "must be a JSON object that names each key once", line, remedy)
    for name in point:
        text(where, name, "name each hyperparameter by a word")
    checked = {name: scalar(f"{where}, {name}", value) for name, value in point.items()}
    check_values({name: [value] for name, value in checked.items()}, f"{where}, {{}}")
    if checked.get("precision") is not None:
        one_of(f"{where}, precision", checked["precision"], LADDER)
    if checked.get("seed") is not None:
        remedy = f"give a seed from 0 to {HIGHEST_SEED}, or leave it out"
        whole(f"{where}, seed", checked["seed"], at_least=0, at_most=HIGHEST_SEED, remedy=remedy)
    return checked


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of a JSON line, where no key occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _same_names(where: str, first: Mapping[str, Scalar], point: Mapping[str, Scalar]) -> None:
    expected, given = (sorted(split_point(each)[0]) for each in (first, point))
    if expected != given:
        remedy = f"name the same hyperparameters on every line ({', '.join(expected) or 'none'} on the first)"
        refuse(where, "must name the first line's hyperparameters", ", ".join(given), remedy)
