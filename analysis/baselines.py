"""Every baseline side by side, so that a speed-up that a stronger baseline alone would give is seen as such."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

FIGURES = ("speedup", "speedup_low", "speedup_high")
OVER_DEFAULT = "speedup_over_default"


def side_by_side(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The speed of each precision against every baseline.

    Args:
        verdicts: of `Results.verdicts`.

    Returns:
        a row for every sweep, device, configuration and precision, in the order of the verdicts, with the columns
        ``sweep``, ``device``, ``config_id``, ``precision``, ``target_speedup``, and for each baseline, as they come,
        ``speedup/<baseline>``, ``speedup_low/<baseline>``, ``speedup_high/<baseline>``,
        ``speedup_over_default/<baseline>`` (over it by PyTorch's default kernels) and ``verdict/<baseline>``; missing
        where the two were not compared.
    """
    keys = ["sweep", "device", "config_id", "precision"]
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in verdicts.to_dict("records"):
        key = tuple(row[name] for name in keys)
        wide = rows.setdefault(key, {name: row[name] for name in [*keys, "target_speedup"]})
        wide |= {f"{name}/{row['baseline']}": row[name] for name in _SHOWN}
    return pd.DataFrame(list(rows.values()), columns=[*keys, "target_speedup", *_columns(baselines(verdicts))])


def baselines(verdicts: pd.DataFrame) -> list[str]:
    """The baselines that verdicts are against, in their order."""
    return list(dict.fromkeys(verdicts["baseline"]))


def _columns(names: Sequence[str]) -> list[str]:
    return [f"{figure}/{name}" for name in names for figure in _SHOWN]


_SHOWN = (*FIGURES, OVER_DEFAULT, "verdict")


def credited(rows: Sequence[Mapping[str, Any]], baselines: Collection[str]) -> list[dict[str, Any]]:
    """Verdicts in which each ``PASS`` names the stronger baselines that reach the target by themselves.

    Args:
        rows: the verdicts of one sweep.
        baselines: the precisions that others are measured against.
    """
    return [{**row, "reason": row["reason"] + _others(row, rows, baselines)} for row in rows]


def _others(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], baselines: Collection[str]) -> str:
    same = ("device", "config_id", "baseline")
    alone = [
        f"{other['precision']} alone gives {other['speedup']:.2f}x of it"
        for other in rows
        if other["precision"] in baselines
        and other["precision"] != row["precision"]
        and all(other[name] == row[name] for name in same)
        and other["verdict"] != "INVALID"
        and other["speedup"] >= row["target_speedup"]
    ]
    return f" But {' and '.join(alone)}." if alone and row["verdict"] == "PASS" else ""
