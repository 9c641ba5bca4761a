"""A task from ``"module:function"`` or ``"path/to/file.py:function"``, found on the driver and loaded on any worker."""

import ast
import hashlib
import importlib
import importlib.util
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.task import Task


class TaskError(ValueError):
    """A task that cannot be found, loaded or built; the message is one line for the user."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


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
    """

    name: str
    function: str
    module: str | None = None
    path: str | None = None
    text: str | None = None
    directory: str = ""


def find_task(name: str, directory: Path | None = None) -> TaskSource:
    """Finds a task without running any of its code.

    Args:
        name: ``"module:function"`` or ``"path/to/file.py:function"``.
        directory: what relative paths and modules start from; default: the working directory.

    Raises:
        TaskError: it has another form, or its file, module or function does not exist, or it does not parse.
    """
    directory = directory or Path.cwd()
    place, separator, function = name.rpartition(":")
    if not separator or not place or not function.isidentifier():
        raise TaskError(f"task: must be 'module:function' or 'path/to/file.py:function', got {name!r}")
    if place.endswith(".py") or "/" in place:
        path = (directory / place).resolve()
        text = _read(path, name)
        _check_function(text, function, str(path), name)
        return TaskSource(name, function, path=str(path), text=text, directory=str(directory))
    origin = _module_file(place, name, directory)
    if origin is not None:
        _check_function(_read(origin, name), function, str(origin), name)
    return TaskSource(name, function, module=place, directory=str(directory))


def _read(path: Path, name: str) -> str:
    if not path.is_file():
        raise TaskError(f"task: no file {path}, got {name!r}; name an existing Python file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"task: {path} cannot be read ({error}), got {name!r}") from error


def _check_function(text: str, function: str, path: str, name: str) -> None:
    try:
        tree = ast.parse(text, path)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise TaskError(f"task: {path}:{line or 1} is not valid Python ({error}), got {name!r}") from error
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    # Whatever could bind the name somewhere will do: whether it does, loading tells.
    bound = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    bound |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    imports = (n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom | ast.Import))
    imported = {a.asname or a.name for n in imports for a in n.names}
    if function not in defined | bound | imported and "*" not in imported:
        known = ", ".join(sorted(defined)) or "none"
        raise TaskError(f"task: no function {function!r} in {path} (it defines: {known}), got {name!r}")


def _module_file(module: str, name: str, directory: Path) -> Path | None:
    _importable_from(str(directory))
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # the packages that it lies in are imported, and may raise anything
        raise TaskError(f"task: module {module!r} cannot be imported ({describe(error)}), got {name!r}") from error
    if spec is None:
        raise TaskError(
            f"task: no module {module!r} from {directory}, got {name!r}; install it or give its file's path"
        )
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _importable_from(directory: str) -> None:
    if directory and directory not in sys.path and Path(directory).is_dir():
        sys.path.append(directory)


def load_function(source: TaskSource) -> Callable[[Mapping[str, Any]], Any]:
    """The task's function, imported in this process.

    Raises:
        TaskError: its module raises while it is imported, or has no such function.
    """
    _importable_from(source.directory)
    try:
        module = importlib.import_module(source.module) if source.module else _file_module(source)
    except (Exception, SystemExit) as error:
        raise TaskError(f"task: {source.name} cannot be imported: {describe(error)}") from error
    function = getattr(module, source.function, None)
    if not callable(function):
        raise TaskError(f"task: {source.function!r} of {source.name} must be a function, got {function!r}")
    return function  # type: ignore[no-any-return]


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


def build_task(source: TaskSource, config: Mapping[str, Any]) -> "Task":
    """Builds the task for a configuration.

    Args:
        source: what :func:`find_task` returned.
        config: a trial's hyperparameters.

    Raises:
        TaskError: the function raises or returns something else. Running out of memory is let through as it is.
    """
    from trainables.memory import is_out_of_memory
    from trainables.task import Task

    function = load_function(source)
    try:
        task = function(dict(config))
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        raise TaskError(f"task: {source.name} raised {describe(error)}; configuration {dict(config)}") from error
    if not isinstance(task, Task):
        raise TaskError(f"task: {source.name} must return a trainables.Task, got {type(task).__name__}")
    return task


def describe(error: BaseException) -> str:
    """An error in one line: its type, its message and the innermost line of code that it came from."""
    message = " ".join(str(error).split())
    if isinstance(error, TaskError):
        return message
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message[:500]}{place}" if message else f"{type(error).__name__}{place}"
