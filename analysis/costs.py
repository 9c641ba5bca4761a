"""What a sweep cost, and an arm beside its baseline; what has no price, or is unknown, stays missing."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.evidence import Evidence, Question
from analysis.intervals import Interval, no_interval, t_interval
from analysis.pairs import Pair
from analysis.power import ROUNDING
from analysis.schema import COST_COLUMNS, Verdict

TIMING = "timing"
"""What the blocks of confirm that are timed stand under in `costs`."""


def costs(trials: pd.DataFrame, timings: pd.DataFrame, run_name: str) -> pd.DataFrame:
    """What each stage of a sweep cost.

    Args:
        trials: one sweep's trials.
        timings: its timings.
        run_name: of the sweep.

    Returns:
        a row for each stage that ran something, the timed blocks of confirm as ``timing``: ``num_runs``, ``num_known``
        of them whose cost is known, and the sum of these as ``cost_usd``, missing where it is none's.
    """
    ran = trials[(trials["status"] != "excluded") | (trials["stage"] != "search")]
    blocks = timings.groupby(["block_id", "device"], dropna=False)["cost_usd"].sum(min_count=1)
    parts = {str(stage): group["cost_usd"] for stage, group in ran.groupby("stage", sort=False)} | {TIMING: blocks}
    rows: list[dict[str, Any]] = [
        {
            "sweep": run_name,
            "stage": stage,
            "num_runs": len(usd),
            "num_known": usd.notna().sum(),
            "cost_usd": usd.sum(min_count=1),
        }
        for stage, usd in parts.items()
        if len(usd)
    ]
    return pd.DataFrame(rows, columns=list(COST_COLUMNS)).astype(COST_COLUMNS)


def cost_ratio(question: Question, pairs: Sequence[Pair]) -> Interval:
    """What the training steps of a full run of the arm cost over what those of the baseline cost: below 1 is cheaper.

    Both run on one type of device, in the same share of a node, so that the price cancels out and time is left. Full
    runs may share their machines and timings do not, so that time is an arm's steps, which differ where the arms'
    configurations do, at the step time of the timed pairs; the geometric mean over these. Evaluation and start-up,
    which are not timed in pairs, are not in it.

    Args:
        question: which arms.
        pairs: by seed.

    Returns:
        the ratio with its interval; NaN where no run of one arm has a price, or nothing was timed undisturbed.
    """
    arms = [pair.arm.run for pair in pairs if pair.arm.run], [pair.baseline.run for pair in pairs if pair.baseline.run]
    logs = [-pair.log_step_ratio for pair in pairs if not pair.contended and math.isfinite(pair.log_step_ratio)]
    if not logs or not all(any(math.isfinite(run.cost_usd) for run in runs) for runs in arms):
        return no_interval(0)
    steps = [[run.steps for run in runs if run.status == "completed" and run.steps > 0] for runs in arms]
    if all(steps):
        log_steps = math.log(statistics.median(steps[0]) / statistics.median(steps[1]))
    else:
        log_steps = 0.0 if question.same_configuration else math.nan
    return t_interval([log_steps + log for log in logs]).exp()


def in_words(e: Evidence, ratio: Interval, verdict: Verdict) -> str:
    """What an arm costs, as a sentence after the verdict's reason; empty where it is unknown or means nothing.

    Only where the metric is shown to be within the margin, and no run of the arm failed, is it called the same.
    """
    if math.isnan(ratio.value) or verdict == "INVALID":
        return ""
    q, percent = e.question, f"{_percent(ratio.value)} %"
    if not math.isnan(ratio.low):
        percent += f" ({_percent(ratio.low)} to {_percent(ratio.high)} %)"
    if e.delta.low > -q.margin + ROUNDING and not e.arm_failures and not e.num_unscored:
        same = f"The same {q.metric}, within {q.margin:g}"
        return f" {same}, for {percent} of the money that training steps cost in {q.baseline}."
    return f" Training steps cost {percent} of those in {q.baseline}; the same {q.metric} is not shown."


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.{0 if ratio >= 0.1 else 2}f}"
