"""Arrays that are made once on a node, whatever number of processes want them, and kept on disk for later runs."""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

ABOUT_FILE = "about.json"
"""Beside the arrays: their types and shapes, and what else was said of them."""

FOLDER_VARIABLE = "AMPSWEEP_CACHE"
"""Environment variable that names the folder of the cache."""


@dataclass(frozen=True)
class Arrays:
    """What :func:`load_or_make` gives.

    Args:
        arrays: by name; read from disk as they are needed, one copy in memory for all processes of a node.
        about: plain data that was kept with them.
        fault: why they are not on disk; ``None`` where they are.
    """

    arrays: Mapping[str, Array]
    about: Mapping[str, Any]
    fault: str | None = None


def cache_folder() -> Path:
    """Where arrays are kept: ``$AMPSWEEP_CACHE``, else ``~/.cache/ampsweep``."""
    given = os.environ.get(FOLDER_VARIABLE)
    return Path(given) if given else Path("~/.cache/ampsweep").expanduser()


def load_or_make(key: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays of a key, made where they are not on disk, or damaged there.

    Of several processes that want them at once, one makes them and the others wait for it; one that dies over it leaves
    the next one free. Where the folder cannot be written they are made in memory.

    Args:
        key: a file name that stands for all that they depend on.
        make: makes them.
    """
    folder = cache_folder() / key
    found = _load(folder)
    if found is not None:
        return found
    made: Arrays | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{key}.lock")):
            found = _load(folder)
            if found is None:
                made = make()
                _write(folder, made)
                found = _load(folder)
            return found or made or make()
    except OSError as error:
        made = made or make()
        return Arrays(made.arrays, made.about, fault=f"{folder.parent} cannot be written ({error.strerror or error})")


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Holds a lock that the system takes back from a process that dies."""
    with file.open("a") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: then each process makes its own
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _load(folder: Path) -> Arrays | None:
    """The arrays of a folder; ``None`` where they are not there as they were written."""
    try:
        kept = json.loads((folder / ABOUT_FILE).read_bytes())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in kept["arrays"]}
        is_whole = {name: _described(array) for name, array in arrays.items()} == kept["arrays"]
        return Arrays(arrays, kept["about"]) if is_whole else None
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None


def _described(array: Array) -> list[Any]:
    return [str(array.dtype), *array.shape]


def _write(folder: Path, made: Arrays) -> None:
    """Under a name of its own first, so that nobody sees half of it."""
    new = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        for name, array in made.arrays.items():
            np.save(new / f"{name}.npy", array, allow_pickle=False)
        kept = {"about": made.about, "arrays": {name: _described(array) for name, array in made.arrays.items()}}
        (new / ABOUT_FILE).write_text(json.dumps(kept))
        shutil.rmtree(folder, ignore_errors=True)  # damaged, or it would have been loaded
        new.rename(folder)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise
