"""Makes what the tests of this folder share importable, and its fixtures known."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from planted import confirmed, draw, one_thread, pytest_generate_tests, virtual_clock

__all__ = ["confirmed", "draw", "one_thread", "pytest_generate_tests", "virtual_clock"]
