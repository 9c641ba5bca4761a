"""What the results of a sweep say: tables, intervals and verdicts, as functions from DataFrames to DataFrames.

The names are imported on first use, so that ``import analysis.schema`` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.results import Results, load
    from analysis.schema import ResultsError

__all__ = ["Results", "ResultsError", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("analysis.schema" if name == "ResultsError" else "analysis.results"), name)
