"""Makes what tests of this folder share importable: in pytest's importlib mode the folder is not on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
