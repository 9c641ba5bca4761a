"""Everything that an exact resume needs, in files that hold nothing but tensors and plain data."""

import contextlib
import io
import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from trainables.storage import Url
from trainables.team import ALONE, Alarm, Team

SHARE = 0.05
"""Of a trial's time, at most, that goes into saving it."""


def write(path: Path | Url, state: Mapping[str, Any]) -> None:
    """Writes a file whole or not at all: under another name, synced, then renamed; of an object store, put there whole.

    Args:
        path: its folder is made if need be.
        state: tensors and plain data.

    Raises:
        OSError: the storage fails.
    """
    if isinstance(path, Url):
        with tempfile.TemporaryFile() as made:
            _save(state, made)
            made.seek(0)
            path.write(made)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            _save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _save(state: Mapping[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(dict(state), file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # such as a full disk, of which PyTorch then says something else
            raise error.__context__ from None
        raise


def write_weights(path: Path | Url, weights: Mapping[str, Any]) -> bool:
    """Writes final weights as :func:`write` does; whether that succeeded, for a storage that fails costs no trial."""
    try:
        write(path, weights)
    except OSError as error:
        warnings.warn(f"{_shown(path)} could not be written, its weights are lost: {error}", stacklevel=2)
        return False
    return True


def _shown(path: Path | Url) -> str:
    return path.shown if isinstance(path, Url) else str(path)


def _sync_folder(folder: Path) -> None:
    """The new name, too, must survive a power cut, where the file system can sync folders; some network ones cannot."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path | Url) -> dict[str, Any] | None:
    """What :func:`write` wrote, its tensors on the CPU; ``None`` where there is no file or it is damaged."""
    try:
        file = io.BytesIO(path.read()) if isinstance(path, Url) else path
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:
        warnings.warn(f"{_shown(path)} cannot be read, its trial begins anew: {error}", stacklevel=2)
        return None
    return found if isinstance(found, dict) else None


def remove(path: Path | Url) -> None:
    """Removes a file, and its folder where nothing else is in it; a storage that fails keeps both.

    What processes that were killed while they wrote have left there goes, too.
    """
    with contextlib.suppress(OSError):
        if isinstance(path, Url):
            path.delete()
            return
        for file in (path, *path.parent.glob("*.pt.*")):
            file.unlink(missing_ok=True)
        path.parent.rmdir()


def rng_state(device: torch.device) -> dict[str, Any]:
    """The generators of Python, NumPy and torch, as plain data and tensors."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - user code draws from the global generator
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)  # pragma: gpu
    return state


def set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Puts the generators where :func:`rng_state` found them."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)  # pragma: gpu


class Saver:
    """Saves a trial now and then.

    Args:
        path: the file; ``None`` saves never.
        every_s: seconds between two savings, at least 0; longer where they would take more than :data:`SHARE` of the
            time.
        state: what to save.
        team: whose workers save together; the first one writes.
    """

    def __init__(
        self, path: Path | Url | None, every_s: float, state: Callable[[], Mapping[str, Any]], team: Team = ALONE
    ) -> None:
        self._path, self._every_s, self._state, self._team = path, every_s, state, team
        self._alarm = Alarm(team, every_s)

    @property
    def is_due(self) -> bool:
        """Whether it is time to save."""
        return self._path is not None and self._alarm.is_due

    def save(self) -> None:
        """Saves; a storage that fails costs the checkpoint, not the trial."""
        assert self._path is not None
        started = time.monotonic()
        try:
            state = self._state()
            if self._team.is_first:
                write(self._path, state)
        except OSError as error:
            warnings.warn(f"{_shown(self._path)} could not be written, training goes on: {error}", stacklevel=2)
        took_s = time.monotonic() - started
        self._alarm.set(max(self._every_s, took_s / SHARE if self._every_s else 0.0))
