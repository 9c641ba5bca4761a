"""Whether the best hyperparameters of one precision stay the best in another, by the search's trials."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from analysis.intervals import Interval, no_interval
from analysis.schema import CONFIG_PREFIX

FEWEST = 8
"""Common configurations below which nothing is concluded."""

NUM_RESAMPLES = 1000

INTERACTION_COLUMNS = {
    "sweep": "string",
    "baseline": "string",
    "precision": "string",
    "hyperparameter": "string",
    "num_configs": "Int64",
    "report": "Int64",
    "rank_correlation": "float64",
    "rank_correlation_low": "float64",
    "rank_correlation_high": "float64",
    "best_in_baseline": "object",
    "best_in_precision": "object",
    "shift": "float64",
    "shift_low": "float64",
    "shift_high": "float64",
    "regret": "float64",
    "conclusion": "string",
    "reason": "string",
}
"""Columns of :func:`interaction` -> pandas dtype."""


@dataclass(frozen=True)
class Common:
    """What two precisions made of the same configurations and seeds.

    Args:
        configs: a row for each, with its hyperparameters.
        baseline, precision: the metric of each, oriented so that more is better; minus infinity where the run failed.
        report: the report that they are compared at, counted from 1; 0 without configurations.
    """

    configs: pd.DataFrame
    baseline: NDArray[np.float64]
    precision: NDArray[np.float64]
    report: int


def interaction(trials: pd.DataFrame, history: pd.DataFrame, declaration: Mapping[str, Any]) -> pd.DataFrame:
    """Whether each hyperparameter's best values in a baseline are the best in the other precisions, too.

    Rests on the search's trials that ran the same configuration with the same seed in both precisions. All are compared
    at the same report, the last that every trial made that did not fail, for later ones have only what pruning left.
    Trials that diverged or ran out of memory count as the worst.

    Args:
        trials: one sweep's trials.
        history: its reports.
        declaration: the sweep as in its ``sweep.json``.

    Returns:
        a row for every (baseline, precision, hyperparameter that varies): ``num_configs`` compared at ``report``;
        Spearman's ``rank_correlation`` of the configurations with its 95 % interval; the values of the best
        configuration in each, ``best_in_baseline`` and ``best_in_precision``; ``shift``: by how much the values of the
        best quarter are larger in the precision than in the baseline, a difference, or a factor where they span a
        factor of ten, with a bootstrap interval over configurations; ``regret``: metric lost in the precision by
        taking the baseline's best configuration instead of its own, infinite where that one fails; ``conclusion``:
        ``stays best``, ``moves`` or ``cannot tell``; and the ``reason``, a sentence. The regret is a difference of
        single runs of which one was chosen for being the best, so that alone it moves nothing.

    Source:
        The interval of Spearman's correlation: Bonett & Wright 2000, Psychometrika 65:23-28.
    """
    margin = float((declaration.get("confirm") or {}).get("margin") or 0.0)
    rows = []
    for baseline in declaration["baselines"]:
        for precision in declaration["precisions"]:
            if precision not in declaration["baselines"]:
                common = _common(trials, history, declaration, baseline, precision)
                where = {"sweep": declaration.get("run_name"), "baseline": baseline, "precision": precision}
                rows += [where | row for row in _rows(common, baseline, precision, margin)]
    return pd.DataFrame(rows, columns=list(INTERACTION_COLUMNS), dtype="object").astype(INTERACTION_COLUMNS)


def _common(
    trials: pd.DataFrame, history: pd.DataFrame, declaration: Mapping[str, Any], baseline: str, precision: str
) -> Common:
    metric, sign = declaration["metric"], 1.0 if declaration["mode"] == "max" else -1.0
    ended = trials[(trials["stage"] == "search") & trials["status"].isin([*_REPORTED, *_FAILED])]
    ended = ended.dropna(subset=["config_id", "seed"]).drop_duplicates(["config_id", "seed", "precision"], keep="last")
    names = [name for name in ended if str(name).startswith(CONFIG_PREFIX)]
    arms = [ended[ended["precision"] == name].set_index(["config_id", "seed"]) for name in (baseline, precision)]
    both = arms[0].index.intersection(arms[1].index)
    arms = [arm.loc[both] for arm in arms]
    made = history[(history["stage"] == "search") & np.isfinite(history[metric])].sort_values("step", kind="stable")
    reports = {trial_id: sign * values.to_numpy(np.float64) for trial_id, values in made.groupby("trial_id")[metric]}
    # A trial that ended well but reported nothing has nothing to be compared by, nor has its twin.
    silent = [arm["status"].isin(_REPORTED) & ~arm["trial_id"].isin(reports) for arm in arms]
    arms = [arm[~(silent[0] | silent[1])] for arm in arms]
    well = [reports[row] for arm in arms for row in arm.loc[arm["status"].isin(_REPORTED), "trial_id"]]
    report = min((len(values) for values in well), default=0)
    base, other = ([_at(row, reports, report) for row in _records(arm)] for arm in arms)
    return Common(arms[0][names], np.array(base), np.array(other), report)


_REPORTED, _FAILED = ("completed", "pruned"), ("diverged", "out_of_memory")


def _records(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return table[["trial_id", "status"]].to_dict("records")


def _at(trial: Mapping[Any, Any], reports: Mapping[Any, NDArray[np.float64]], report: int) -> float:
    return -math.inf if trial["status"] in _FAILED else float(reports[trial["trial_id"]][report - 1])


def _rows(common: Common, baseline: str, precision: str, margin: float) -> list[dict[str, Any]]:
    correlation = spearman(common.baseline, common.precision)
    regret = _regret(common)
    found = []
    for name in common.configs:
        values = common.configs[name]
        if values.astype("object").nunique() < 2:
            continue
        shift, is_factor = _shift(values, common)
        shown = [_plain(values.iloc[int(arm.argmax())]) for arm in (common.baseline, common.precision)]
        row: dict[str, Any] = {
            "hyperparameter": str(name).removeprefix(CONFIG_PREFIX),
            "num_configs": len(values),
            "report": common.report,
            "regret": regret,
            "best_in_baseline": shown[0],
            "best_in_precision": shown[1],
        }
        row |= _bounds("rank_correlation", correlation) | _bounds("shift", shift.exp() if is_factor else shift)
        verdict, reason = _conclude(len(values), regret, shift, margin, baseline, precision)
        found.append(row | {"conclusion": verdict, "reason": reason})
    return found


def _conclude(num: int, regret: float, shift: Interval, margin: float, base: str, name: str) -> tuple[str, str]:
    if num < FEWEST:
        what = "configuration was" if num == 1 else "configurations were"
        return "cannot tell", f"Only {num} {what} tried in both {base} and {name}; {FEWEST} are needed."
    if math.isnan(regret):
        return "cannot tell", f"Every configuration failed in {base} or in {name}."
    loses = f"loses {regret:.4g} in {name} against its own best" if math.isfinite(regret) else f"fails in {name}"
    cost = f"the best configuration of {base} {loses}"
    if regret == 0:
        return "stays best", f"The best configuration of {base} is the best in {name}, too."
    moved = shift.low > 0 or shift.high < 0
    where = f"The best values are {'larger' if shift.value > 0 else 'smaller'} in {name} than in {base}"
    if regret <= margin:
        return "stays best", f"{where}, but {cost}." if moved else f"{cost[0].upper()}{cost[1:]}."
    if moved:
        return "moves", f"{where}, and {cost}."
    return "cannot tell", f"{cost[0].upper()}{cost[1:]}, but the best values are not shown to differ."


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> Interval:
    """Spearman's rank correlation with its 95 % interval; NaN where either is constant or there are fewer than 4."""
    ranks = [pd.Series(values).rank().to_numpy() for values in (first, second)]
    if len(first) < 4 or any(np.ptp(rank) == 0 for rank in ranks):
        return no_interval(len(first))
    rho = float(np.clip(np.corrcoef(ranks[0], ranks[1])[0, 1], -1, 1))
    half = float(ndtri(0.975)) * math.sqrt((1 + rho**2 / 2) / (len(first) - 3))
    # Ranks that agree wholly do not show a correlation of 1 for sure: as if half of two neighbours had changed places.
    most = 1 - 6 / (len(first) * (len(first) ** 2 - 1))
    z = math.atanh(np.clip(rho, -most, most))
    return Interval(rho, min(rho, math.tanh(z - half)), max(rho, math.tanh(z + half)), len(first))


def _regret(common: Common) -> float:
    """Metric that the baseline's best configuration loses in the precision; of equally good ones the one that does."""
    if not len(common.baseline) or not np.isfinite([common.baseline.max(), common.precision.max()]).all():
        return math.nan
    taken = common.precision[common.baseline == common.baseline.max()].max()
    return float(common.precision.max() - taken)


def _shift(values: "pd.Series[Any]", common: Common) -> tuple[Interval, bool]:
    """How much larger the values of the best quarter are in the precision, and whether that is a log of a factor."""
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values) or values.isna().any():
        return no_interval(len(values)), False
    x = values.to_numpy(np.float64)
    is_factor = bool(x.min() > 0 and x.max() >= 10 * x.min())
    x = np.log(x) if is_factor else x
    own = np.arange(len(x))[None]
    value = float(_shifts(x, common, own)[0])
    resamples = np.random.default_rng(0).integers(len(x), size=(NUM_RESAMPLES, len(x)))
    low, high = np.percentile(_shifts(x, common, resamples), (2.5, 97.5))
    return Interval(value, float(low), float(high), len(x)), is_factor


def _shifts(x: NDArray[np.float64], common: Common, picked: NDArray[np.int64]) -> NDArray[np.float64]:
    """The shift in each row of picked configurations."""
    quarter = max(picked.shape[1] // 4, 2)
    centres = []
    for metric in (common.baseline, common.precision):
        best = np.argsort(-metric[picked], axis=1, kind="stable")[:, :quarter]
        centres.append(np.take_along_axis(x[picked], best, axis=1).mean(axis=1))
    return np.asarray(centres[1] - centres[0])


def _bounds(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
