"""A task from ``"module:function"``, ``"path/to/file.py:function"`` or a pickled function, loaded on any worker."""

import ast
import copy
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import os
import pickle
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard

from trainables.definitions import functions, misfit
from trainables.storage import Url, place
from trainables.text import one_line, raised_in_worker

if TYPE_CHECKING:
    from torch import nn

    from trainables.spec import Budget
    from trainables.task import Task


class TaskError(ValueError):
    """A task that cannot be found, loaded or built; the message is one line for the user."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@dataclass(frozen=True)
class TaskSource:
    """Where a task comes from.

    Args:
        name: as the user wrote it.
        function: the function to call with a trial's configuration.
        module: dotted name, where the task was given as a module.
        path: the file, where the task was given as one.
        text: the file's text, which travels to workers that may not see the file.
        directory: the driver's working directory, importable from on workers that have it.
        pickled: the file that holds the function itself, where it was given as one.
        digest: fingerprint of that function.
        search_path: folders that the driver imports from, as in ``PYTHONPATH``: what that function refers to may lie
            in one of them.
    """

    name: str
    function: str
    module: str | None = None
    path: str | None = None
    text: str | None = None
    directory: str = ""
    pickled: str | None = None
    digest: str | None = None
    search_path: str = ""


def find_task(name: str, directory: Path | None = None, or_none: bool = False) -> TaskSource:
    """Finds a task without running any of its code.

    Args:
        name: ``"module:function"`` or ``"path/to/file.py:function"``.
        directory: what relative paths and modules start from; default: the working directory.
        or_none: whether a function that takes no argument will do, too.

    Raises:
        TaskError: it has another form, or its file, module or function does not exist, or it does not parse, or what
            it names can certainly not be called with a configuration.
    """
    directory = directory or Path.cwd()
    place, separator, function = name.rpartition(":")
    if not separator or not place or not function.isidentifier():
        _refuse("must name a function", name, "write module:function or path/to/file.py:function")
    if place.endswith(".py") or "/" in place:
        path = (directory / place).resolve()
        text = _read(path, name)
        _check_function(text, function, str(path), name, or_none)
        return TaskSource(name, function, path=str(path), text=text, directory=str(directory))
    origin = _module_file(place, name, directory)
    if origin is not None:
        _check_function(_read(origin, name), function, str(origin), name, or_none)
    return TaskSource(name, function, module=place, directory=str(directory))


def _refuse(condition: str, got: object, remedy: str) -> NoReturn:
    """Raises the error for a task that cannot be used: what it must be, what it is, what to do."""
    raise TaskError(f"task: {condition}, got {got!r}; {remedy}")


def _read(path: Path, name: str) -> str:
    if not path.is_file():
        _refuse(f"must lie in an existing file (no file {path})", name, "name an existing Python file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        _refuse(f"must lie in a file of UTF-8 text ({path} cannot be read: {error})", name, "check the file")


def _check_function(text: str, function: str, path: str, name: str, or_none: bool) -> None:
    try:
        tree = ast.parse(text, path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        condition = f"must lie in a file that Python can read ({path}:{line} is not valid Python: {describe(error)})"
        _refuse(condition, name, "correct the file")
    why = misfit(tree, function, or_none)
    if why is not None:
        known = ", ".join(functions(tree)) or "no function"
        condition = f"must name a function that takes a configuration ({function} {why} in {path})"
        hint = "mark what trains by itself with @trainable; " if why.startswith("needs the arguments") else ""
        _refuse(condition, name, f"{hint}the file defines {known}")


def _module_file(module: str, name: str, directory: Path) -> Path | None:
    _importable_from(str(directory))
    try:
        spec = importlib.util.find_spec(module)
    except (Exception, SystemExit) as error:  # the packages that it lies in are imported, and may raise anything
        condition = f"must lie in a module that can be imported (module {module!r} cannot: {describe(error)})"
        _refuse(condition, name, "correct the module, or give its file's path")
    if spec is None:
        condition = f"must lie in an existing module (no module {module!r} from {directory})"
        _refuse(condition, name, "install it or give its file's path")
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _importable_from(directory: str) -> None:
    if directory and directory not in sys.path and Path(directory).is_dir():
        sys.path.append(directory)


def load_function(source: TaskSource) -> Callable[[Mapping[str, Any]], Any]:
    """The task's function, imported in this process.

    Raises:
        TaskError: its module raises while it is imported, or has no such function.
    """
    for directory in (source.directory, *source.search_path.split(os.pathsep)):
        _importable_from(directory)
    if source.pickled is not None:
        return _pickled_function(source, source.pickled)
    try:
        module = importlib.import_module(source.module) if source.module else _file_module(source)
    except (Exception, SystemExit) as error:
        raise TaskError(
            f"task: must be importable, got {describe(error)} from {source.name}; correct what its file runs"
        ) from error
    function = getattr(module, source.function, None)
    if not callable(function):
        _refuse(f"{source.function} of {source.name} must be a function", function, "name one that returns a Task")
    return function  # type: ignore[no-any-return]


def _pickled_function(source: TaskSource, file: str) -> Callable[[Mapping[str, Any]], Any]:
    try:
        return _unpickled(file, source.digest)
    except (Exception, SystemExit) as error:
        remedy = "keep what it imports where every worker finds it, and the results where every node sees them"
        found = place(file)
        where = found.shown if isinstance(found, Url) else file
        raise TaskError(
            f"task: must be loadable from {where}, got {describe(error)} for {source.name}; {remedy}"
        ) from error


@functools.lru_cache(maxsize=1)
def _unpickled(file: str, digest: str | None) -> Callable[[Mapping[str, Any]], Any]:
    """Read once in a process, which runs many trials of one task: it may hold all of the data."""
    found = place(file)
    return pickle.loads(found.read() if isinstance(found, Url) else found.read_bytes())  # type: ignore[no-any-return]


def _file_module(source: TaskSource) -> types.ModuleType:
    """Runs the text that the driver read, so that every worker runs the same, and none needs to see the file."""
    assert source.path is not None
    assert source.text is not None
    digest = hashlib.sha256(f"{source.path}\0{source.text}".encode()).hexdigest()[:12]
    name = f"ampsweep_task_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    _importable_from(str(Path(source.path).parent))
    module = types.ModuleType(name)
    module.__file__ = source.path
    sys.modules[name] = module  # before it runs: dataclasses and pickle look their module up
    try:
        exec(compile(source.text, source.path, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def build_task(source: TaskSource, config: Mapping[str, Any], budget: "Budget | None" = None) -> "Task":
    """Builds the task for a configuration.

    Args:
        source: what :func:`find_task` returned.
        config: a trial's hyperparameters.
        budget: the trial's, for what wants to know it; ``None`` where it is not to be trained.

    Raises:
        TaskError: the function raises or returns something else; one that it raises itself comes out as it is. Running
            out of memory is let through as it is, too.
    """
    from trainables.memory import is_out_of_memory
    from trainables.task import Task

    function = load_function(source)
    try:
        task = _made(function, dict(config), budget, copies=source.pickled is not None)
    except TaskError:
        raise
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        raise TaskError(
            f"task: {source.name} must build with the configuration {dict(config)}, got {describe(error)}; "
            "correct the task or the space"
        ) from error
    if not isinstance(task, Task):
        raise TaskError(
            f"task: {source.name} must return a trainables.Task, got {type(task).__name__}; correct what it returns"
        )
    return task


def _made(function: Callable[..., Any], config: dict[str, Any], budget: "Budget | None", copies: bool) -> Any:
    """What a task's function gives, as a task where it is a Lightning module, alone or with its data module.

    Its model is a copy where the function is pickled: one of a notebook may hold a model, which the trials of a process
    would otherwise train in turns.
    """
    from trainables.task import Task

    if is_lightning_module(function):
        from trainables.adapters.lightning_task import make_module

        function = functools.partial(make_module, function)
    made = function(config)
    module, data = made if isinstance(made, tuple) and len(made) == 2 else (made, made)
    if is_lightning_module(type(module)):
        from trainables.adapters.lightning_task import task_of

        own = copy.deepcopy(module) if copies else module
        return task_of(own, own if data is module else data, config, budget)
    if copies and isinstance(made, Task):
        return dataclasses.replace(made, model=copy.deepcopy(made.model))
    return made


def is_lightning_module(value: object) -> "TypeGuard[type[nn.Module]]":
    """Whether something is a class of Lightning modules, of either of its packages, neither of which is imported."""
    return isinstance(value, type) and any(
        base.__name__ == "LightningModule" and base.__module__.partition(".")[0] in ("lightning", "pytorch_lightning")
        for base in value.__mro__
    )


def describe(error: BaseException) -> str:
    """An error in one line: its type, its message and the innermost line of code that it came from."""
    message = one_line(str(error))
    if isinstance(error, TaskError):
        return message
    if (by_worker := raised_in_worker(str(error))) is not None:
        return f"{by_worker[0][:500]} ({by_worker[1]})"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message[:500]}{place}" if message else f"{type(error).__name__}{place}"
