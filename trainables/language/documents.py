"""Documents to continue: a whole text file, the rows of a table, or the sources of Python's own library."""

import functools
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from trainables.language.files import Column, read_whole, refuse
from trainables.language.texts import read_texts

PACKAGE = "http"
"""The package of Python's library whose sources stand in for a user's text: two hundred kilobytes, which are the same
wherever a version of Python is."""


def read_documents(place: str, field: str, text_column: Column | None = None) -> Sequence[str]:
    """Documents of a place.

    Args:
        place: a text file, which is one document with all its line breaks; or a file or data set of the hub with a
            document in each row.
        field: the hyperparameter that named it, such as ``"train_file"``.
        text_column: where they stand; ``None``: in the only column, or the one with a usual name.

    Raises:
        TaskError: one line that says what is wrong, and where.
    """
    if Path(place).suffix.lower() == ".txt":
        whole = read_whole(place, field)
        if not whole.strip():
            refuse(field, f"{place} must hold text", "none", "name a file with text")
        return [whole]
    return read_texts(place, field, text_column).texts


@functools.cache
def python_sources() -> tuple[str, ...]:
    """The files of :data:`PACKAGE`, in the order of their names.

    Raises:
        TaskError: this Python has no sources.
    """
    folder = Path(sysconfig.get_path("stdlib")) / PACKAGE
    found = tuple(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.py")))
    if not found:
        refuse(
            "train_file", f"must be given where Python comes without sources (none in {folder})", "nothing", "name one"
        )
    return found
