"""Why a sweep measured nothing: what most of its runs ended with."""

import re

import pandas as pd

from analysis.results import Results

LONGEST_REASON = 200
"""Characters of a reason that are shown."""


def shortfall(results: Results) -> str | None:
    """Why the last stage that a sweep was to run came to nothing, in one line; ``None`` where it did not.

    Args:
        results: of one sweep that has ended.
    """
    reason = _shortfall(results)
    lost = results.trials.query("status == 'lost' and stage != 'probe'")
    if reason is None or lost.empty:
        return reason
    return f"{reason}; --resume --run-name {lost['sweep'].iloc[0]} runs again what was lost"


def _shortfall(results: Results) -> str | None:
    (sweep,) = results.sweeps
    trials = results.trials
    probed, searched, confirmed = (trials[trials["stage"] == stage] for stage in ("probe", "search", "confirm"))
    usable = list(probed.loc[probed["status"] == "completed", "precision"])
    if not usable:
        return f"no precision can be used here: {commonest_end(probed)}"
    if sweep.get("stage") == "probe":
        return None
    limits = [f"{name} {sweep[name]}" for name in ("budget_usd", "budget_hours") if sweep.get(name) is not None]
    if sweep.get("num_trials") != 0 and limits and (searched["status"] == "excluded").all():
        return f"no trial ran: {' or '.join(limits)} was spent before the first; raise it, and --resume goes on"
    if sweep.get("num_trials") != 0 and not searched["status"].isin(_MEASURED).any():
        return f"no trial completed: {commonest_end(searched)}"
    if sweep.get("stage") != "confirm" or sweep.get("confirm") is None:
        return None
    paired = confirmed[confirmed["status"] == "completed"].groupby("block_id")["precision"].nunique().gt(1).any()
    timed = results.timings.drop_duplicates("block_id")
    if paired and (timed["status"] == "completed").any():
        return None
    if confirmed.empty:
        left_out = f"of the precisions, only {', '.join(usable)} can be used here: {commonest_end(probed)}"
        return f"confirm gave no pair: {left_out}"
    return f"confirm gave no pair: {commonest_end(timed if paired else confirmed, 'timings' if paired else 'runs')}"


_MEASURED = ("completed", "pruned")


def commonest_end(rows: pd.DataFrame, what: str = "") -> str:
    """What most of the rows that measured nothing ended with, e.g. ``4 of 6 diverged (the training loss became nan)``.

    Args:
        rows: with the columns ``status`` and ``status_reason``; reasons that differ in their numbers alone are one.
        what: the rows are, in words, e.g. ``runs``.
    """
    failed = rows[~rows["status"].isin(_MEASURED)]
    of = f"{len(rows)} {what}".strip()
    if failed.empty:
        return f"none of {of} failed" if len(rows) else "there were none"
    reasons = failed["status_reason"].fillna("").astype(str)
    ends = failed["status"].astype(str) + ": " + reasons.map(lambda reason: re.sub(r"\d[\d.e+-]*", "#", reason))
    commonest = ends == ends.value_counts(sort=False).idxmax()  # of equal counts the first
    status = str(failed["status"][commonest].iloc[0]).replace("_", " ")
    reason = reasons[commonest].iloc[0]
    shown = reason if len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 3] + "..."
    return f"{commonest.sum()} of {of} {status}" + (f" ({shown})" if shown else "")
