"""Looks at where results go: the storage folder, and Weights & Biases."""

import configparser
import fcntl
import io
import netrc
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from sweeps.engine.doctor.facts import Storage, Tracking
from trainables.storage import Url, is_url, place

_WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
"""Of the public server, under its older and its newer name."""


def look_at_storage(where: str) -> Storage:
    """Whether results can be kept there, tried with a file that is taken away again.

    Args:
        where: a folder, which need not be there yet, or the URL of an object store.
    """
    if is_url(where):
        return _look_at_store(Url(where))
    folder = Path(where).expanduser().absolute()
    try:
        existing = _existing(folder)
        if not existing.is_dir():
            return Storage(where, str(folder), f"{existing} is no folder")
        can_lock = _try_writing(existing)
        disk = shutil.disk_usage(existing)
    except OSError as error:
        return Storage(where, str(folder), error.strerror or str(error))
    kind = file_system(existing.resolve(), _mounts())
    return Storage(where, str(folder), None, can_lock, kind, disk.total, disk.free)


def _look_at_store(url: Url) -> Storage:
    try:
        with marked(url.text):
            return Storage(url.text, url.shown, file_system="object store")
    except (OSError, ValueError) as error:
        return Storage(url.text, url.shown, " ".join(str(error).split())[:200])


@contextmanager
def marked(where: str) -> Iterator[tuple[str, str]]:
    """A file in the storage by which other machines can tell whether they see the same one.

    Args:
        where: a folder that can be written, or the URL of an object store.

    Yields:
        the file and its content.

    Raises:
        OSError, ValueError: it cannot be written.
    """
    token = secrets.token_hex(16)
    if is_url(where):
        there = Url(where) / f".ampsweep-doctor-{token}"
        there.write(io.BytesIO(token.encode()))
        try:
            yield there.text, token
        finally:
            with suppress(OSError):
                there.delete()
        return
    with tempfile.TemporaryDirectory(prefix=".ampsweep-doctor-", dir=_existing(Path(where))) as folder:
        mark = Path(folder) / "mark"
        mark.write_text(token, encoding="utf-8")
        os.chmod(folder, 0o755)  # nodes may run as somebody else
        yield str(mark), token


def sees(mark: str, token: str) -> bool:
    """Whether a machine sees the file of :func:`marked`."""
    file = place(mark)
    try:
        content = file.read() if isinstance(file, Url) else file.read_bytes()
    except (OSError, ValueError):
        return False
    return content == token.encode()


def file_system(folder: Path, mounts: str) -> str | None:
    """The type of the file system that a folder lies on.

    Args:
        folder: absolute, without symbolic links.
        mounts: the text of ``/proc/mounts``.
    """
    kinds = {words[1]: words[2] for words in (line.split() for line in mounts.splitlines()) if len(words) > 2}
    holding = [Path(place) for place in kinds if folder.is_relative_to(place)]
    return kinds[str(max(holding, key=lambda place: len(place.parts)))] if holding else None


def look_at_tracking(environment: Mapping[str, str], home: Path) -> Tracking:
    """Whether runs can be sent to Weights & Biases; no key is kept or shown.

    Args:
        environment: variables of the process.
        home: the user's folder.
    """
    try:
        version = metadata.version("wandb")
    except metadata.PackageNotFoundError:
        return Tracking(None)
    host = _host(environment, home)
    mode = environment.get("WANDB_MODE", "online")
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if environment.get(name):
            return Tracking(version, mode, host, name)
    path = Path(environment.get("NETRC") or home / ".netrc").expanduser()
    try:
        entries = netrc.netrc(path)
    except FileNotFoundError:
        return Tracking(version, mode, host)
    except (netrc.NetrcParseError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else "it does not parse"
        return Tracking(version, mode, host, error=f"{path}: {why}")
    hosts = _WANDB_HOSTS if host in _WANDB_HOSTS else (host,)
    has_key = any(entry[2] for name in hosts if (entry := entries.authenticators(name)))
    return Tracking(version, mode, host, str(path) if has_key else None)


def _host(environment: Mapping[str, str], home: Path) -> str:
    url = environment.get("WANDB_BASE_URL") or _configured(environment, home)
    return urlsplit(url).netloc if url else _WANDB_HOSTS[0]


def _configured(environment: Mapping[str, str], home: Path) -> str | None:
    """The server that ``wandb login --host`` has kept."""
    folder = Path(environment.get("WANDB_CONFIG_DIR") or home / ".config" / "wandb")
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read(folder / "settings", encoding="utf-8")
    except configparser.Error:
        return None
    return settings.get("default", "base_url", fallback=None)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _try_writing(folder: Path) -> bool:
    """Writes, syncs and renames a file; returns whether it could be locked."""
    with tempfile.TemporaryDirectory(prefix=".ampsweep-doctor-", dir=folder) as scratch:
        path = Path(scratch) / "file"
        with path.open("w") as file:
            file.write("written by ampsweep doctor\n")
            file.flush()
            os.fsync(file.fileno())
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                can_lock = True
            except OSError:
                can_lock = False
        os.replace(path, path.with_name("renamed"))
        return can_lock


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8")
    except OSError:
        return ""
