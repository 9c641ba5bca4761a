"""Where a sweep's files are: a folder, or a URL of an object store such as ``s3://bucket/sweeps``."""

import contextlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote


def is_url(text: str) -> bool:
    """Whether a place is a URL; every other text is a path."""
    return re.match(r"[a-z][a-z0-9+.-]+://", text) is not None


def place(text: str) -> "Path | Url":
    """What a text names."""
    return Url(text) if is_url(text) else Path(text)


def uri_of(text: str) -> str:
    """A URL as pyarrow takes it: quoted, and with an end to its patience, which with Google Cloud lasts 15 minutes."""
    path, mark, options = text.partition("?")
    if path.startswith(("gs:", "gcs:")) and "retry_limit_seconds=" not in options:
        mark, options = "?", "&".join([*filter(None, [options]), "retry_limit_seconds=30"])
    return quote(path, safe=_PLAIN) + mark + options


@dataclass(frozen=True)
class Url:
    """A file or folder of an object store, of any kind that pyarrow knows: ``s3://``, ``gs://``, ``hdfs://``.

    Args:
        text: with the store's options after a ``?``, such as ``?endpoint_override=localhost:9000&scheme=http``. Blanks
            and letters of any language may stand as they are.

    Source:
        pyarrow.fs.FileSystem.from_uri
    """

    text: str

    def __truediv__(self, name: str) -> "Url":
        path, mark, options = self.text.partition("?")
        own = name.replace("%", "%25").replace("?", "%3F")  # which mean something in a URL
        return Url(f"{path.rstrip('/')}/{own}{mark}{options}")

    @property
    def name(self) -> str:
        """Of the file or folder, in the one that it lies in."""
        return unquote(self.shown.rstrip("/").rpartition("/")[2])

    @property
    def shown(self) -> str:
        """As it may be printed and kept: without the store's options and keys."""
        return re.sub(r"(?<=://)[^/@]*@", "", self.text.partition("?")[0])

    def find(self) -> tuple[Any, str]:
        """The store and the path in it, as pyarrow has them.

        Raises:
            OSError, ValueError: pyarrow does not know it, or it cannot be reached.
        """
        from pyarrow import fs

        found: tuple[Any, str] = fs.FileSystem.from_uri(uri_of(self.text))
        return found

    def write(self, content: BinaryIO) -> None:
        """Writes a file, which is there as soon as it is whole.

        Args:
            content: read to its end.
        """
        store, path = self.find()
        if store.type_name not in _WITHOUT_FOLDERS:
            store.create_dir(path.rpartition("/")[0], recursive=True)
        with store.open_output_stream(path) as stream:
            shutil.copyfileobj(content, stream, _CHUNK_BYTES)

    def read(self) -> bytes:
        """The file's content.

        Raises:
            FileNotFoundError: it is not there.
        """
        store, path = self.find()
        with store.open_input_stream(path) as stream:
            return bytes(stream.read())

    def exists(self) -> bool:
        """Whether there is a file."""
        from pyarrow import fs

        store, path = self.find()
        return bool(store.get_file_info(path).type == fs.FileType.File)

    def is_empty(self) -> bool:
        """Whether there is nothing in a folder, or no such folder."""
        from pyarrow import fs

        store, path = self.find()
        return not store.get_file_info(fs.FileSelector(path, allow_not_found=True))

    def changed_at(self) -> float:
        """When a file was written last, in seconds since 1970."""
        store, path = self.find()
        return float(store.get_file_info(path).mtime.timestamp())

    def folders(self) -> "list[Url]":
        """The folders in this one."""
        from pyarrow import fs

        store, path = self.find()
        there = store.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return [self / info.base_name for info in there if info.type == fs.FileType.Directory]

    def delete(self) -> None:
        """Deletes a file."""
        store, path = self.find()
        store.delete_file(path)


_PLAIN = "/:@%!$&'()*+,;="
"""What pyarrow takes in a URL's path beside letters and digits; all else is to be quoted."""

_WITHOUT_FOLDERS = ("s3", "gcs", "abfs")
"""Kinds of stores in which a path needs no folder."""

_CHUNK_BYTES = 8 << 20


def delete_folder(folder: "Path | Url") -> None:
    """Deletes a folder with all that is in it; a storage that fails keeps it."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        store, path = folder.find()
        store.delete_dir(path)
