"""Text from anywhere, made fit for one line of a terminal, a log or a record."""

import re
from pathlib import Path


def one_line(text: str) -> str:
    """The text in one line without control characters, which could garble a terminal or a record."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def raised_in_worker(message: str) -> tuple[str, str] | None:
    """What a data loader's worker process raised, and where, out of the traceback that its error has for a message.

    Args:
        message: of any error.

    Returns:
        its type and message, and its file and line; ``None`` where it is another error.
    """
    if not message.startswith("Caught ") or "\nOriginal Traceback" not in message:
        return None
    last = message.rpartition("Traceback (most recent call last):")[2].strip("\n")
    said = re.search(r"^\S.*", last, re.MULTILINE | re.DOTALL)
    frames = re.findall(r'^  File "(.+)", line (\d+)', last, re.MULTILINE)
    if said is None or not frames:
        return None
    return one_line(said[0]), f"{Path(frames[-1][0]).name}:{frames[-1][1]}"
