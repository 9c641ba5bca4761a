"""Ctrl-C and SIGTERM: an interruption that some library swallowed is raised again."""

import signal
import sys
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_asked = False


def heed() -> None:
    """Has both signals interrupt this process.

    A spot notice, ``ray job stop`` and Kubernetes end a driver by SIGTERM; it is to leave in good order, as for Ctrl-C.
    """
    global _asked
    _asked = False
    for each in _SIGNALS:
        signal.signal(each, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    raise KeyboardInterrupt


def raise_swallowed() -> None:
    """Raises an interruption that came to nothing: what is raised in a callback or a destructor, Python ignores.

    Nothing happens while an exception is on its way, such as the interruption itself.

    Raises:
        KeyboardInterrupt: there was one.
    """
    if _asked and sys.exception() is None:
        raise KeyboardInterrupt
