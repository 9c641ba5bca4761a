"""What a run's search has found, as its journal tells."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal


def winners(folder: Path, metric: str, mode: Literal["max", "min"], top_k: int) -> list[Mapping[str, Any]]:
    """The union of each precision's best configurations in a search, each once.

    Args:
        folder: of the run.
        metric, mode: what is ranked by.
        top_k: how many of each precision.
    """
    from analysis import load
    from analysis.verdicts import ranking

    ranked = ranking(load(folder).trials, metric, mode)
    configs = {row["config_id"]: row["config"] for row in searched(folder)}
    return [configs[name] for name in dict.fromkeys(name for best in ranked.values() for name in best[:top_k])]


def searched(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's search, as recorded so far."""
    from analysis.journal import read_journal

    return [row for row in read_journal(folder).trials.values() if row["stage"] == "search"]
