"""Where all that happens in a sweep goes: into the journal, and from there to whoever watches."""

from collections.abc import Mapping
from typing import Any

from analysis.schema import Kind
from sweeps.engine.journal import Journal
from sweeps.engine.progress import Progress


class Recorder:
    """Writes rows to the journal first and shows them afterwards.

    Args:
        journal: keeps them.
        progress: shows them.
    """

    def __init__(self, journal: Journal, progress: Progress) -> None:
        self.journal = journal
        self.progress = progress

    def record(self, kind: Kind, row: Mapping[str, Any]) -> None:
        """One fact."""
        self.journal.write(kind, row)
        self.progress.saw(kind, row)
