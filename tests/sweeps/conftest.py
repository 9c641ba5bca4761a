"""Makes what tests of this folder share importable: in pytest's importlib mode the folder is not on the path."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def heeds_sigint() -> Iterator[None]:
    """A test that SIGINT interrupts, which those that run in the background may ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
