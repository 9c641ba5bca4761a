"""Parsers whose errors are one line, in the words of all others."""

import argparse
import re
import shutil
from collections.abc import Sequence
from typing import Any, NoReturn

from sweeps.search.checks import SweepError, did_you_mean

_REWRITTEN = (
    (r"expected one argument", "needs a value, got nothing; see --help"),
    (r"ignored explicit argument (.*)", r"takes no value, got \1; give the flag alone"),
    (
        r"the following arguments are required: TASK",
        "TASK: must be given, got nothing; write module:function or path/to/file.py:function",
    ),
    (r"the following arguments are required: (.*)", r"\1: must be given, got nothing; see --help"),
    (r"invalid choice: ('.*') \(choose from (.*)\)", r"must be a known name, got \1; valid: \2"),
)
"""What argparse says, as patterns, and the same in the words of the other errors."""

_HIGHEST_WIDTH = 110
"""Columns of ``--help`` at most: longer lines are hard to read."""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help texts in a column of their own, at a readable width."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns - 2, _HIGHEST_WIDTH)
        super().__init__(prog, max_help_position=32, width=width)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, raised instead of printed with the usage."""

    def error(self, message: str) -> NoReturn:
        """Raises the error in the words of all others."""
        for original, rewritten in _REWRITTEN:
            message = re.sub(original, rewritten, message, flags=re.DOTALL)
        raise SweepError(message.removeprefix("argument "))


def parse_known(parser: argparse.ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """The flags that were given, by field."""
    namespace, unknown = parser.parse_known_args(list(argv))
    if unknown:
        _refuse_unknown(parser, unknown)
    return vars(namespace)


def _refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    flag = next((word for word in unknown if word.startswith("-")), None)
    if flag is None:
        raise SweepError(f"arguments: must be flags, got {unknown[0]!r}; flags start with --, see --help")
    flag = flag.partition("=")[0]
    known = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    raise SweepError(f"{flag}: must be a known flag, got {flag!r}; {did_you_mean(flag, known)}see --help")
