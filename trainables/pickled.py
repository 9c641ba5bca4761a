"""A task whose builder has no file of its own, as one defined in a notebook: pickled by value, for any worker."""

import functools
import hashlib
import os
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainables.fingerprint import fingerprint, reached_by
from trainables.loading import TaskError, TaskSource
from trainables.spec import PICKLE_FILE


def pickle_task(build: Callable[[dict[str, Any]], Any]) -> tuple[TaskSource, bytes]:
    """A builder as bytes that any worker can load, and where it comes from but for the file that they will be in.

    Args:
        build: from a trial's configuration to a ``Task``. What it refers to goes with it, but for what importable
            modules define: those a worker imports, from the folders that this process imports from.

    Raises:
        TaskError: something that goes with it cannot be pickled; the message names it.
    """
    import cloudpickle

    try:
        content = cloudpickle.dumps(build)
    except Exception as error:
        what = f"{_culprit(build) or name_of(build)} ({type(error).__name__}: {error})"
        remedy = "make or open it inside of the function"
        raise TaskError(f"task: must refer only to what can be pickled, got {what}; {remedy}") from error
    path = os.pathsep.join(folder for folder in sys.path if Path(folder).is_absolute() and Path(folder).is_dir())
    return TaskSource(
        name_of(build), "", digest=_digest(build, content), directory=str(Path.cwd()), search_path=path
    ), content


def _digest(build: object, content: bytes) -> str:
    """The builder's fingerprint; that of its pickle, which another session would not find again, where it has none."""
    try:
        return fingerprint(build)
    except Exception:
        return hashlib.sha256(content).hexdigest()[:16]


def name_of(build: object) -> str:
    """A readable name, which cannot be taken for that of a task in a module or file."""
    named = getattr(build, "named_after", build)
    name = getattr(named, "__qualname__", type(named).__qualname__)
    return f"{getattr(named, '__module__', None) or '__main__'}.{name}"


def write_task(content: bytes, folder: Path) -> None:
    """Writes a pickled builder into a folder, whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    temporary = folder / f"{PICKLE_FILE}.{os.getpid()}"
    temporary.write_bytes(content)
    os.replace(temporary, folder / PICKLE_FILE)


def _culprit(value: Any, depth: int = 5) -> str | None:
    """What cannot be pickled of all that a value refers to: the innermost name, and what it belongs to."""
    for name, part in _parts(value).items():
        if part is not value and not _can_be_pickled(part):
            inner = _culprit(part, depth - 1) if depth else None
            return f"{inner} of {name}" if inner else f"the {type(part).__name__} {name}"
    return None


def _parts(value: Any) -> Mapping[str, Any]:
    if isinstance(value, types.FunctionType):
        return reached_by(value)
    if isinstance(value, types.MethodType):
        return {"self": value.__self__}
    if isinstance(value, functools.partial):
        return {
            "its function": value.func,
            **{f"argument {i}": each for i, each in enumerate(value.args)},
            **value.keywords,
        }
    if isinstance(value, Mapping):
        return {f"[{name!r}]": each for name, each in value.items()}
    found = getattr(value, "__dict__", {})
    return found if isinstance(found, Mapping) and not isinstance(value, type) else {}


def _can_be_pickled(value: Any) -> bool:
    import cloudpickle

    try:
        cloudpickle.dumps(value)
    except Exception:
        return False
    return True
