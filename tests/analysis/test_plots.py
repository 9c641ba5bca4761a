"""What the figures show, read from their artists."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from journals import arm, run, timing, trial, write_sweep

from analysis import ResultsError, load, plots

GAINS = (-0.002, 0.0, 0.002)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    records = []
    for seed, gain in enumerate(GAINS):
        for name, metric in (("fp32", 0.9), ("bf16-mixed", 0.9 + gain)):
            own = run("c1", seed, name, metric, samples_per_s=100.0 if name == "fp32" else 190.0 + seed)
            records.append(own)
            report = {"kind": "report", "trial_id": own["trial_id"], "stage": "confirm"}
            scale = {"loss_scale": 2.0**16} if name == "bf16-mixed" else {}
            for step, value in ((10, 0.5), (20, metric)):
                records.append(report | scale | {"step": step, "train_loss": 1 / step, "val_accuracy": value})
        windows = {"fp32": 20.0, "bf16-mixed": 10.0 + 0.1 * seed}
        arms = [arm(name, [ms] * 8) for name, ms in windows.items()]
        records.append(timing("c1", seed, [*arms, arm("fp32", [20.0 + 0.01 * seed] * 8, is_copy=True)]))
    slow = {"stage": "search", "precision": "fp32", "status": "pruned", "config_id": "c2"}
    records.append(trial("beaten", samples_per_s=90.0, val_accuracy=0.7, **slow))
    return load(write_sweep(tmp_path_factory.mktemp("plots"), records))


def points(line):
    return [tuple(point) for point in np.asarray(line.get_xydata(), dtype=float).tolist()]


def test_learning_curves_have_a_line_for_every_trial_and_a_color_for_every_precision(results):
    figure = plots.learning_curves(results)
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels) == ["val_accuracy", "train_loss", "loss_scale"]  # val_loss was never reported
    lines = panels["val_accuracy"].get_lines()
    assert sorted(points(line) for line in lines) == sorted(
        [(10.0, 0.5), (20.0, 0.9 + gain)] for gain in (0.0, 0.0, 0.0, *GAINS)
    )
    assert len({line.get_color() for line in lines}) == 2
    assert {line.get_marker() for line in lines} == {"."}  # a line of one point would not be seen
    assert [text.get_text() for text in panels["val_accuracy"].get_legend().get_texts()] == ["fp32", "bf16-mixed"]
    assert [points(line) for line in panels["loss_scale"].get_lines()] == [[(10.0, 65536.0), (20.0, 65536.0)]] * 3
    with pytest.raises(ResultsError, match="learning curves: need reports of the stage search"):
        plots.learning_curves(results, "search")


@pytest.mark.parametrize(
    ("draw", "name", "limit"),
    [(plots.speedups, "speedup", 1.5), (plots.metric_differences, "metric_delta", -0.01)],
)
def test_forests_show_every_interval_against_its_limit(results, draw, name, limit):
    verdicts = results.verdicts
    axes = draw(verdicts).axes[0]
    *drawn, line = axes.get_lines()
    assert set(line.get_xdata()) == {limit}
    for place, row in enumerate(verdicts.to_dict("records")):
        interval, value = drawn[2 * place : 2 * place + 2]
        assert points(interval) == [(row[f"{name}_low"], place), (row[f"{name}_high"], place)]
        assert points(value) == [(row[name], place)]
        assert interval.get_color() == value.get_color() == plots.COLORS[row["verdict"]]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["bf16-mixed against fp32, c1: PASS", "bf16-mixed against fp32, best: PASS"]
    bottom, top = axes.get_ylim()
    assert bottom > top  # the first verdict is on top


def test_forests_without_an_interval_or_a_verdict(results):
    one = results.verdicts.assign(speedup_low=math.nan, speedup_high=math.nan)
    interval, value, *_ = plots.speedups(one).axes[0].get_lines()
    assert np.isnan(np.asarray(interval.get_xdata(), dtype=float)).all()
    assert points(value) == [(one["speedup"].iloc[0], 0.0)]
    with pytest.raises(ResultsError, match="speed-up: must be known of a verdict"):
        plots.speedups(results.verdicts.iloc[:0])


def test_pareto_shows_every_trial_and_the_line_of_the_unbeaten(results):
    axes = plots.pareto(results).axes[0]
    drawn = {dots.get_label(): sorted(map(tuple, dots.get_offsets().tolist())) for dots in axes.collections}
    assert drawn["fp32"] == [(90.0, 0.7), *[(100.0, 0.9)] * 3]
    assert drawn["bf16-mixed"] == [(190.0, 0.898), (191.0, 0.9), (192.0, 0.902)]
    assert points(axes.get_lines()[0]) == [(192.0, 0.902)]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("samples/s", "val_accuracy")


def test_unbeaten_by_hand():
    speed = pd.Series([1.0, 2.0, 3.0, 2.0, 1.0, 1.5], index=[5, 3, 8, 1, 2, 9])
    quality = pd.Series([9.0, 8.0, 1.0, 8.0, 8.5, 8.0], index=speed.index)
    # The last is slower than two that are as good.
    assert plots.unbeaten(speed, quality).tolist() == [True, True, True, True, False, False]


def test_figures_can_be_saved_and_leave_no_global_state(results, tmp_path):
    plots.speedups(results.verdicts).savefig(tmp_path / "speed.png", dpi=40)
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    code = "import sys; import analysis.plots; assert not [name for name in sys.modules if 'matplotlib' in name]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_there_is_one_clear_line(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ResultsError, match=r'need matplotlib, .*pip install "ampsweep\[plots\]"') as caught:
        plots.pareto(results)
    assert "\n" not in str(caught.value)
