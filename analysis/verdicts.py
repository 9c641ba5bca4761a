"""The verdicts of a sweep: every precision against every baseline, per configuration confirmed and type of device."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.baselines import credited
from analysis.costs import cost_ratio, in_words
from analysis.evidence import Evidence, Question, gather
from analysis.intervals import Interval
from analysis.pairs import Confirmed, Examples, confirmed_by_device, pairs_of
from analysis.power import num_pairs_needed
from analysis.rules import judge
from analysis.schema import BEST, BEST_PREFIX, PRECISIONS, VERDICT_COLUMNS
from analysis.time_to_target import curves_of, time_to_target_ratio


def verdicts(
    trials: pd.DataFrame,
    history: pd.DataFrame,
    timings: pd.DataFrame,
    examples: Examples,
    declaration: Mapping[str, Any],
) -> pd.DataFrame:
    """A verdict for every (device, baseline, precision, configuration) confirmed, with the schema's verdict columns.

    Args:
        trials: one sweep's trials.
        history: its reports.
        timings: its timings.
        examples: the metric per validation example of a trial.
        declaration: the sweep as in its ``sweep.json``.

    Returns:
        the rows; ``config_id`` is ``best`` where each precision's best configuration is compared with the baseline's.
        Ratios are how many times better the precision is, but for ``cost_ratio``, what its training steps cost over the
        baseline's; differences of the metric are positive where it is better.
    """
    confirm = declaration.get("confirm")
    rows: list[dict[str, Any]] = []
    if confirm:
        metric = declaration["metric"]
        ranked = ranking(trials, metric, declaration["mode"])
        curves = curves_of(history, metric)
        for device, confirmed in confirmed_by_device(trials, timings, metric).items():
            for match in _matches(confirmed, declaration, ranked):
                question = Question(
                    match.baseline[1],
                    match.arm[1],
                    metric,
                    declaration["mode"],
                    float(confirm["target_speedup"]),
                    float(confirm["margin"]),
                    match.arm[0] == match.baseline[0],
                    (declaration.get("stop_at") or {}).get(metric),
                )
                pairs = pairs_of(confirmed, match.arm, match.baseline)
                row = _row(gather(question, pairs, examples), match, cost_ratio(question, pairs))
                where = {"sweep": declaration.get("run_name"), "device": device, "config_id": match.config_id}
                rows.append(row | where | {"time_to_target_ratio": time_to_target_ratio(question, pairs, curves)})
    rows = [row | {"reason": row["reason"] + row[_MONEY]} for row in credited(rows, declaration["baselines"])]
    return pd.DataFrame(rows, columns=list(VERDICT_COLUMNS)).astype(VERDICT_COLUMNS)


_MONEY = "_money"
"""What a verdict's reason ends with."""


def passes(table: pd.DataFrame, precision: str) -> bool:
    """Whether every type of device has a PASS of a precision against the strongest baseline that it was compared with.

    Args:
        table: verdicts, of :func:`verdicts`.
        precision: the arm.
    """
    own = table[table["precision"] == precision]
    strongest = own.groupby("device")["baseline"].transform(lambda names: max(names, key=PRECISIONS.index))
    passed = (own["verdict"] == "PASS").where(own["baseline"] == strongest, False)
    return bool(len(own)) and bool(passed.groupby(own["device"]).any().all())


@dataclass(frozen=True)
class Match:
    """Two arms to compare, each a (config_id, precision), and the ``config_id`` of their row."""

    arm: tuple[str, str]
    baseline: tuple[str, str]
    config_id: str


def _matches(
    confirmed: Confirmed, declaration: Mapping[str, Any], ranked: Mapping[str, Sequence[str]]
) -> Iterator[Match]:
    present = set(confirmed.runs) | {name for block in confirmed.blocks.values() for name in block.arms}
    keys = [key for runs in confirmed.runs.values() for key in runs] + list(confirmed.blocks)
    configs = list(dict.fromkeys(config_id for config_id, _ in keys))
    for baseline in declaration["baselines"]:
        for precision in declaration["precisions"]:
            if not {baseline, precision} <= present or not _against(precision, baseline, declaration["baselines"]):
                continue
            for config_id in configs:
                yield Match((config_id, precision), (config_id, baseline), config_id)
            arm, base = _best(ranked.get(precision, ()), configs), _best(ranked.get(baseline, ()), configs)
            if arm and base:
                yield Match((arm, precision), (base, baseline), BEST)


def _against(precision: str, baseline: str, baselines: Sequence[str]) -> bool:
    """Whether to compare a precision with a baseline: not with itself, nor a weaker baseline with a stronger one."""
    return precision not in baselines or PRECISIONS.index(precision) > PRECISIONS.index(baseline)


def ranking(trials: pd.DataFrame, metric: str, mode: str) -> dict[str, list[str]]:
    """Each precision's configurations, best first, by the search stage; of equal ones the lower loss, then the name."""
    kept = (trials["stage"] == "search") & trials["status"].isin(["completed", "pruned"])
    search = trials[kept & np.isfinite(trials[BEST_PREFIX + metric])].dropna(subset=["config_id"])
    by = [BEST_PREFIX + metric, "val_loss", "config_id"]
    search = search.sort_values(by, ascending=[mode == "min", True, True], kind="stable")
    return {
        str(name): list(dict.fromkeys(group["config_id"])) for name, group in search.groupby("precision", sort=False)
    }


def _best(ranked: Sequence[str], configs: Sequence[str]) -> str | None:
    """The best confirmed configuration; without a search to tell, the only one."""
    if len(configs) == 1:
        return configs[0]
    return next((config_id for config_id in ranked if config_id in configs), None)


def _row(e: Evidence, match: Match, cost: Interval) -> dict[str, Any]:
    verdict, reason = judge(e)
    if match.arm[0] != match.baseline[0]:
        reason = (
            f"Best {match.arm[1]} ({match.arm[0]}) against best {match.baseline[1]} ({match.baseline[0]}): {reason}"
        )
    speedup, aa = e.log_speedup.exp(), e.log_aa.exp()
    return {
        "baseline": e.question.baseline,
        "precision": e.question.precision,
        "metric": e.question.metric,
        "target_speedup": e.question.target_speedup,
        "margin": e.question.margin,
        "num_pairs": e.num_pairs,
        "speedup": speedup.value,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
        "speedup_over_default": math.exp(e.log_speedup_over_default),
        "metric_delta": e.delta.value,
        "metric_delta_low": e.delta.low,
        "metric_delta_high": e.delta.high,
        "memory_ratio": math.exp(e.log_memory_ratio),
        "cost_ratio": cost.value,
        "cost_ratio_low": cost.low,
        "cost_ratio_high": cost.high,
        "aa_low": aa.low,
        "aa_high": aa.high,
        "num_pairs_needed": num_pairs_needed(e) if verdict == "UNDERPOWERED" else None,
        "verdict": verdict,
        "reason": reason,
        _MONEY: in_words(e, cost, verdict),
    }
