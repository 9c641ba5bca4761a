"""A fingerprint of a function and of all that it reaches, which another process finds for the same code and data.

A pickle would not do: it names the cell and the lines of a notebook that a function came from, and classes at random.
"""

import dis
import functools
import hashlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))

_MERGED = (tuple, frozenset, types.CodeType)
"""Constants: whether equal ones are one object depends on how the code was compiled and loaded."""

_OF_ITS_PLACE = {"__module__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__", "__doc__"}
"""Entries of a class that say nothing about what it does."""


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits that depend on the code of a function, on what it refers to, and on the data in that.

    What an importable module defines counts by its name alone, as it does for pickle; of objects of unknown kinds
    counts what pickle would keep of them, or else the type and the attributes.
    """
    walk = _Walk()
    walk.add(value)
    return walk.content.hexdigest()[:16]


class _Walk:
    """Visits a value and all that it refers to, each object once."""

    def __init__(self) -> None:
        self.content = hashlib.sha256()
        self._seen: dict[int, tuple[int, Any]] = {}  # the objects, too: while they live, no other gets their id

    def add(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self._say(type(value).__name__, repr(value))
        elif id(value) in self._seen:
            self._say("again", self._seen[id(value)][0])
        else:
            if not isinstance(value, _MERGED):
                self._seen[id(value)] = (len(self._seen), value)
            self._say(type(value).__module__, type(value).__qualname__)
            self._add_parts(value)

    def _say(self, *words: object) -> None:
        self.content.update(("\0".join(map(str, words)) + "\1").encode())

    def _add_all(self, values: Iterable[Any]) -> None:
        for value in values:
            self.add(value)

    def _add_parts(self, value: Any) -> None:
        name = _name_in_a_module(value)
        if name is not None:
            self._say(name)
        elif isinstance(value, list | tuple):
            self._say(len(value))
            self._add_all(value)
        elif isinstance(value, set | frozenset):
            self._add_all(sorted(map(fingerprint, value)))
        elif isinstance(value, Mapping):
            self._add_all(value.keys())
            self._add_all(value.values())
        elif isinstance(value, types.CodeType):
            self._say(value.co_code.hex())
            self._add_all([*value.co_names, *value.co_varnames, *value.co_consts])
        elif isinstance(value, type):
            kept = {name: each for name, each in vars(value).items() if name not in _OF_ITS_PLACE}
            self._add_all([value.__qualname__, value.__bases__, kept])
        elif hasattr(value, "dtype") and hasattr(value, "shape") and _has_bytes(value):
            self._add_array(value)
        else:
            self._add_all(_parts_of(value))

    def _add_array(self, value: Any) -> None:
        """A tensor or an array of NumPy's."""
        self._say(value.dtype, tuple(value.shape))
        if hasattr(value, "untyped_storage"):
            import torch

            value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        if value.dtype.hasobject:
            self.add(value.tolist())
        else:
            self.content.update(value.tobytes())


def _name_in_a_module(value: Any) -> str | None:
    """The name by which another process can import a function or class or module; ``None`` where it cannot."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    try:
        found = functools.reduce(getattr, name.split("."), sys.modules.get(module))
    except AttributeError:
        return None
    return f"{module}:{name}" if found is value else None


def _parts_of(value: Any) -> list[Any]:
    if isinstance(value, types.FunctionType):
        return [value.__code__, value.__defaults__, value.__kwdefaults__, *reached_by(value).values()]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, staticmethod | classmethod):
        return [value.__func__]
    if isinstance(value, property):
        return [value.fget, value.fset, value.fdel]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    return _kept_by_pickle(value)


def _kept_by_pickle(value: Any) -> list[Any]:
    try:
        kept = value.__reduce_ex__(2)
    except Exception:  # what cannot be pickled is refused elsewhere
        return [getattr(value, "__dict__", None)]
    if isinstance(kept, str):
        return [kept]
    return [list(part) if isinstance(part, Iterator) else part for part in kept]


def _has_bytes(value: Any) -> bool:
    return hasattr(value, "tobytes") or hasattr(value, "untyped_storage")


def reached_by(function: Callable[..., Any]) -> dict[str, Any]:
    """What a function refers to outside of itself: variables of functions around it, and its module's, by name."""
    code, names = [function.__code__], {}
    closure = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in closure:
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not yet assigned
            continue
    while code:
        each = code.pop()
        code += [constant for constant in each.co_consts if isinstance(constant, types.CodeType)]
        for step in dis.get_instructions(each):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in function.__globals__:
                names[step.argval] = function.__globals__[step.argval]
    return names
