"""Figures of the results, as `matplotlib.figure.Figure`; they hold no global state and save with ``savefig``.

matplotlib comes with ``pip install "ampsweep[plots]"`` and is imported by the first figure.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.results import Results
from analysis.schema import refuse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"PASS": "tab:green", "FAIL": "tab:red", "UNDERPOWERED": "tab:orange", "INVALID": "tab:gray"}
"""Color of a verdict."""

CURVES = ("train_loss", "val_loss", "loss_scale")
"""What learning curves are drawn of beside the sweep's metric, as far as it was reported."""


def learning_curves(results: Results, stage: str = "confirm") -> "Figure":
    """A panel for the metric, the losses and the loss scale, a line for every trial, a color for every precision.

    Args:
        results: of one sweep or several.
        stage: ``confirm`` or ``search``.

    Raises:
        ResultsError: matplotlib is missing, or the stage has no reports.
    """
    history = results.history[results.history["stage"] == stage]
    precisions = results.trials.set_index(["sweep", "trial_id"])["precision"]
    history = history.join(precisions, on=["sweep", "trial_id"])
    metrics = dict.fromkeys([*(sweep["metric"] for sweep in results.sweeps), *CURVES])
    names = [name for name in metrics if name in history and history[name].notna().any()]
    if not names:
        refuse("learning curves", f"need reports of the stage {stage}", f"{len(history)} reports", "run that stage")
    figure = _figure(4 * len(names), 3.5)
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        _curves(axes, history.dropna(subset=[name, "step"]), name)
    return figure


def _curves(axes: "Axes", history: pd.DataFrame, name: str) -> None:
    colors = {precision: f"C{number}" for number, precision in enumerate(history["precision"].dropna().unique())}
    labelled = set()
    for (precision, *_), trial in history.groupby(["precision", "sweep", "trial_id"], sort=False):
        label = "" if precision in labelled else str(precision)
        labelled.add(precision)
        steps, values = trial["step"].to_numpy(np.float64), trial[name].to_numpy(np.float64)
        # Markers, so that a trial that was pruned at its first report is seen too.
        axes.plot(steps, values, ".-", color=colors[precision], label=label, alpha=0.7, linewidth=1)
    if name == "loss_scale":
        axes.set_yscale("log", base=2)
    axes.set(title=name, xlabel="step")
    axes.legend()


def speedups(verdicts: pd.DataFrame) -> "Figure":
    """The speed-up of every verdict with its interval, the target as a line, a color for each verdict.

    Args:
        verdicts: of `Results.verdicts`.

    Raises:
        ResultsError: matplotlib is missing, or no verdict has a speed-up.
    """
    return _forest(verdicts, "speedup", verdicts["target_speedup"], "speed-up", "target")


def metric_differences(verdicts: pd.DataFrame) -> "Figure":
    """The metric's difference of every verdict with its interval, minus the margin as a line; right is better.

    Args:
        verdicts: of `Results.verdicts`.

    Raises:
        ResultsError: matplotlib is missing, or no verdict has a difference.
    """
    names = verdicts["metric"].dropna().unique()
    what = names[0] if len(names) == 1 else "metric"
    return _forest(verdicts, "metric_delta", -verdicts["margin"], f"better {what}", "margin")


def _forest(verdicts: pd.DataFrame, name: str, limits: "pd.Series[float]", what: str, limit: str) -> "Figure":
    known = verdicts[verdicts[name].notna()]
    if known.empty:
        refuse(what, "must be known of a verdict", f"{len(verdicts)} verdicts without", "see their reasons")
    figure = _figure(7, 1.5 + 0.35 * len(known))
    axes = figure.subplots()
    for place, row in enumerate(known.to_dict("records")):
        bounds = [row[f"{name}_low"], row[f"{name}_high"]]
        color = COLORS[row["verdict"]]
        axes.plot(bounds, [place, place], color=color)  # an unknown bound draws nothing
        axes.plot([row[name]], [place], "o", color=color)
    for number, value in enumerate(sorted(set(limits[known.index]))):
        axes.axvline(value, color="black", linestyle="--", linewidth=1, label="" if number else limit)
    axes.set_yticks(range(len(known)), [_label(row) for row in known.to_dict("records")])
    axes.invert_yaxis()
    axes.set(xlabel=f"{what}, 95 % interval")
    axes.legend()
    return figure


def _label(row: dict[Any, Any]) -> str:
    return f"{row['precision']} against {row['baseline']}, {row['config_id']}: {row['verdict']}"


def pareto(results: Results) -> "Figure":
    """The best metric against the speed of every trial of search and confirm, and the line of those none of which is
    beaten in both. Exploratory: the scheduler chose which trials finished.

    Args:
        results: of one sweep, or of several with one metric.

    Raises:
        ResultsError: matplotlib is missing, the metrics differ, or no trial has both.
    """
    metrics = {(sweep["metric"], sweep["mode"]) for sweep in results.sweeps}
    if len(metrics) > 1:
        refuse("accuracy against speed", "must be of sweeps of one metric", sorted(metrics), "plot them one by one")
    [(metric, mode)] = metrics
    kept = results.trials[results.trials["stage"] != "probe"].dropna(subset=["samples_per_s", metric])
    if kept.empty:
        refuse("accuracy against speed", f"needs trials with samples_per_s and {metric}", "none", "run the search")
    figure = _figure(6, 4.5)
    axes = figure.subplots()
    for precision, trials in kept.groupby("precision", sort=False):
        axes.scatter(trials["samples_per_s"], trials[metric], s=18, alpha=0.7, label=str(precision))
    front = kept[unbeaten(kept["samples_per_s"], kept[metric] * (1 if mode == "max" else -1))]
    front = front.sort_values("samples_per_s")
    axes.plot(front["samples_per_s"], front[metric], color="black", linewidth=1, label="not beaten in both")
    axes.set(xlabel="samples/s", ylabel=metric)
    axes.legend()
    return figure


def unbeaten(speed: "pd.Series[float]", quality: "pd.Series[float]") -> "pd.Series[bool]":
    """Which of some trials no other one beats: none is better in one and at least as good in the other.

    Args:
        speed: more is better.
        quality: of the same trials; more is better.
    """
    best = quality.groupby(speed).max().sort_index(ascending=False)
    of_faster = best.cummax().shift(fill_value=-np.inf)
    return (quality >= speed.map(best)) & (quality > speed.map(of_faster))


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        refuse("plots", "need matplotlib", str(error), 'install it with: pip install "ampsweep[plots]"')
    return Figure(figsize=(width, height), layout="constrained")
