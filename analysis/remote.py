"""Reading a sweep's folder from an object store, while the sweep is still running, too."""

import atexit
import contextlib
import functools
import os
import re
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from analysis.schema import EXAMPLES_DIR, JOURNAL_DIR, SWEEP_FILE, refuse


def is_url(text: str) -> bool:
    """Whether a place is a URL; every other text is a path."""
    return re.match(r"[a-z][a-z0-9+.-]+://", text) is not None


def below(url: str, name: str) -> str:
    """The URL of what lies in a folder.

    Args:
        url: of the folder, perhaps with the store's options after a ``?``.
        name: a relative path.
    """
    path, mark, options = url.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def uri_of(text: str) -> str:
    """A URL as pyarrow takes it: quoted, and with an end to its patience, which with Google Cloud lasts 15 minutes."""
    path, mark, options = text.partition("?")
    if path.startswith(("gs:", "gcs:")) and "retry_limit_seconds=" not in options:
        mark, options = "?", "&".join([*filter(None, [options]), "retry_limit_seconds=30"])
    return quote(path, safe=_PLAIN) + mark + options


def shown(place: str) -> str:
    """A path or URL as it may be printed: of a URL without the store's options and keys."""
    return re.sub(r"(?<=://)[^/@]*@", "", place.partition("?")[0]) if is_url(place) else place


@functools.cache
def local_copy(url: str) -> Path:
    """A folder of this process's that :func:`fetch` may bring a run to, time and again; it goes when the process ends.

    Args:
        url: of the run.
    """
    folder = Path(tempfile.mkdtemp(prefix="ampsweep-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder / url.partition("?")[0].rstrip("/").rpartition("/")[2]


def fetch(url: str, folder: Path) -> None:
    """Brings a run's files to a folder, but for checkpoints; of what is there already, only what has changed.

    What is no longer in the store goes here, too: another run may have its name by now.

    Args:
        url: of the run, such as ``s3://bucket/sweeps/digits-20261123-101500``, as pyarrow knows it; blanks and letters
            of any language may stand as they are.
        folder: made if need be.

    Raises:
        ResultsError: there is no such run, or the store does not answer.
    """
    from pyarrow import fs

    try:
        store, path = fs.FileSystem.from_uri(uri_of(url))
        # The declaration first: what it says of the run must not be younger than the journal.
        for part in ("", JOURNAL_DIR, EXAMPLES_DIR):
            found = store.get_file_info(fs.FileSelector(f"{path}/{part}".rstrip("/"), allow_not_found=True))
            there = {info.base_name: info for info in found if info.type == fs.FileType.File}
            for file in (folder / part).glob("*"):
                if file.suffix in _OF_A_RUN and file.name not in there:
                    file.unlink(missing_ok=True)
            for name, info in there.items():
                with contextlib.suppress(FileNotFoundError):  # as the lock, which goes with the driver
                    _bring(store, info, folder / part / name)
    except (OSError, ValueError) as error:
        _refuse(url, " ".join(str(error).split())[:200])
    if not (folder / SWEEP_FILE).exists():
        _refuse(url, f"it has no {SWEEP_FILE}")


_PLAIN = "/:@%!$&'()*+,;="
"""What pyarrow takes in a URL's path beside letters and digits; all else is to be quoted."""

_OF_A_RUN = (".json", ".jsonl", ".npy")
"""How the names of a run's files end."""


def _bring(store: Any, info: Any, file: Path) -> None:
    is_same = file.exists() and (file.stat().st_size, file.stat().st_mtime_ns) == (info.size, info.mtime_ns)
    if is_same and file.name != SWEEP_FILE:  # which may change twice in what a store takes for one moment
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with store.open_input_stream(info.path) as stream:
        content = stream.read()
    temporary = file.with_name(f"{file.name}.{threading.get_ident()}")  # another thread may be reading the run, too
    temporary.write_bytes(content)
    if info.mtime_ns is not None:
        os.utime(temporary, ns=(info.mtime_ns, info.mtime_ns))
    os.replace(temporary, file)


def _refuse(url: str, why: str) -> NoReturn:
    condition = f"must be the URL of a sweep that can be read ({why})"
    refuse("results", condition, shown(url), "see the store's name and rights")
