"""Whether the best learning rate carries over, from searches made by hand."""

import io
import math

import numpy as np
import pytest
from journals import trial, write_sweep
from rich.console import Console

from analysis import load
from analysis.interaction import INTERACTION_COLUMNS, spearman
from analysis.tables import print_report

RATES = np.geomspace(1e-4, 1e-1, 16)


def quality(rate, best):
    """A metric that falls by 0.1 for every factor of ten off the best rate."""
    return 0.9 - 0.1 * abs(math.log10(rate / best))


def searched(config, precision, rate, values, status="completed", **columns):
    """A trial of the search and its reports of the metric."""
    trial_id = f"s-{config}-{precision}"
    where = {"stage": "search", "config_id": config, "seed": 1, "precision": precision, "status": status}
    own = trial(trial_id, config={"learning_rate": rate, "width": 64}, **(where | columns))
    report = {"kind": "report", "trial_id": trial_id, "stage": "search"}
    return [own, *({**report, "step": 10 * (n + 1), "val_accuracy": value} for n, value in enumerate(values))]


def search(best_of, rates=RATES, **change):
    """Every rate in every precision, of which the best is given."""
    return [
        record
        for precision, best in best_of.items()
        for number, rate in enumerate(rates)
        for record in searched(f"c{number}", precision, float(rate), [0.1, quality(rate, best)])
    ]


def only(folder, records, **declaration):
    found = load(write_sweep(folder, records, **declaration)).interaction()
    assert len(found) == 1
    return found.iloc[0]


def test_the_same_optimum_stays_best(tmp_path):
    row = only(tmp_path, search({"fp32": 3e-3, "bf16-mixed": 2.8e-3}))
    assert (row["hyperparameter"], row["baseline"], row["precision"]) == ("learning_rate", "fp32", "bf16-mixed")
    assert (row["num_configs"], row["report"], row["conclusion"]) == (16, 2, "stays best")
    assert row["best_in_baseline"] == row["best_in_precision"] == pytest.approx(RATES[7])
    assert row["regret"] == 0.0
    assert row["reason"] == "The best configuration of fp32 is the best in bf16-mixed, too."
    assert row["rank_correlation"] > 0.9
    assert row["shift_low"] <= 1.0 <= row["shift_high"]


def test_an_optimum_a_factor_of_thirty_lower_moves(tmp_path):
    row = only(tmp_path, search({"fp32": 3e-2, "bf16-mixed": 1e-3}))
    assert row["conclusion"] == "moves"
    assert (row["best_in_baseline"], row["best_in_precision"]) == pytest.approx((RATES[12], RATES[5]))
    # The best four are 10^-1.2, -1.4, -1.6 and -1.8, and 10^-2.8, -3, -3.2 and (of two as good, the first) -3.4.
    assert row["shift"] == pytest.approx(10**-1.6)
    assert row["shift_high"] < 1.0
    assert row["regret"] == pytest.approx(quality(RATES[5], 1e-3) - quality(RATES[12], 1e-3))
    assert row["reason"].startswith("The best values are smaller in bf16-mixed than in fp32, and the best")


def test_a_move_that_costs_less_than_the_margin_stays_best(tmp_path):
    records = search({"fp32": 3e-2, "bf16-mixed": 1e-3})
    confirm = {"target_speedup": 1.5, "margin": 0.2}
    row = only(tmp_path, records, confirm=confirm)
    assert row["conclusion"] == "stays best"
    assert "smaller in bf16-mixed than in fp32, but" in row["reason"]


def test_few_configurations_cannot_tell(tmp_path):
    row = only(tmp_path, search({"fp32": 3e-2, "bf16-mixed": 1e-3}, rates=RATES[::3]))
    assert (row["num_configs"], row["conclusion"]) == (6, "cannot tell")
    assert row["reason"] == "Only 6 configurations were tried in both fp32 and bf16-mixed; 8 are needed."


def test_noise_cannot_tell(tmp_path):
    rng = np.random.default_rng(0)
    records = [
        record
        for precision in ("fp32", "bf16-mixed")
        for number, rate in enumerate(RATES)
        for record in searched(f"c{number}", precision, float(rate), [float(rng.uniform(0.5, 0.9))])
    ]
    row = only(tmp_path, records)
    assert row["conclusion"] == "cannot tell"
    assert row["rank_correlation_low"] < 0 < row["rank_correlation_high"]


def test_survivors_of_pruning_are_compared_at_the_report_that_all_made(tmp_path):
    # At the first report the order is that of 3e-2 in both. Pruning leaves two, whose later reports say the opposite.
    records = []
    for precision in ("fp32", "bf16-mixed"):
        for number, rate in enumerate(RATES):
            first = quality(rate, 3e-2)
            if number < 2:
                records += searched(f"c{number}", precision, float(rate), [first, 0.99])
            else:
                records += searched(f"c{number}", precision, float(rate), [first], "pruned")
    row = only(tmp_path, records)
    assert row["report"] == 1
    assert row["best_in_baseline"] == pytest.approx(RATES[12])


def test_trials_that_failed_are_the_worst_and_not_left_out(tmp_path):
    # In bf16-mixed the larger half diverges, at once or late; the baseline's best is among them.
    records = search({"fp32": 3e-2, "bf16-mixed": 3e-2})
    for number in range(8, 16):
        records.append(trial(f"s-c{number}-bf16-mixed", status=("diverged", "out_of_memory")[number % 2]))
    row = only(tmp_path, records)
    assert (row["num_configs"], row["conclusion"], row["regret"]) == (16, "moves", math.inf)
    assert row["best_in_precision"] == pytest.approx(RATES[7])
    assert row["reason"].endswith("and the best configuration of fp32 fails in bf16-mixed.")
    everything = [trial(f"s-c{n}-bf16-mixed", status="diverged") for n in range(16)]
    assert only(tmp_path / "all", [*records, *everything])["conclusion"] == "cannot tell"


def test_what_has_no_twin_or_no_report_is_left_out(tmp_path):
    records = search({"fp32": 3e-3, "bf16-mixed": 3e-3})
    records += searched("c99", "fp32", 0.5, [0.99])  # no twin
    records += searched("c98", "fp32", 0.5, [0.99]) + searched("c98", "bf16-mixed", 0.5, [])  # completed, no report
    records += searched("c97", "fp32", 0.5, [0.99]) + searched("c97", "bf16-mixed", 0.5, [0.9], "errored")
    records += searched("c96", "fp32", 0.5, [0.99]) + searched("c96", "bf16-mixed", 0.5, [0.9], seed=2)
    row = only(tmp_path, records)
    assert (row["num_configs"], row["report"]) == (16, 2)
    assert row["best_in_baseline"] == pytest.approx(RATES[7])


def test_less_is_better_and_words_have_no_shift(tmp_path):
    records = search({"fp32": 3e-3, "bf16-mixed": 3e-3})
    for record in records:
        if record["kind"] == "report":
            record["val_accuracy"] = -record["val_accuracy"]
        else:
            record["config"]["optimizer"] = "sgd" if record["config_id"] in ("c3", "c7") else "adamw"
    found = load(write_sweep(tmp_path, records, mode="min")).interaction().set_index("hyperparameter")
    assert found.loc["learning_rate", "best_in_baseline"] == pytest.approx(RATES[7])
    assert found.loc["optimizer", "best_in_precision"] == "sgd"
    assert math.isnan(found.loc["optimizer", "shift"])
    assert list(found.index) == ["learning_rate", "optimizer"]  # width does not vary


def test_nothing_searched(tmp_path):
    found = load(write_sweep(tmp_path, [])).interaction()
    assert len(found) == 0
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == INTERACTION_COLUMNS


def test_spearman_by_hand():
    # Ranks 1 2 3 4 5 and 2 1 4 3 5: 1 - 6 * 4 / (5 * 24) = 0.8
    interval = spearman(np.array([1.0, 2.0, 3.0, 4.0, 50.0]), np.array([20.0, 1.0, 40.0, 30.0, 50.0]))
    half = 1.959964 * math.sqrt((1 + 0.32) / 2)
    assert interval.value == pytest.approx(0.8)
    assert interval.low == pytest.approx(math.tanh(math.atanh(0.8) - half), rel=1e-5)
    assert interval.high == pytest.approx(math.tanh(math.atanh(0.8) + half), rel=1e-5)
    assert math.isnan(spearman(np.ones(5), np.arange(5.0)).value)
    same = spearman(np.arange(6.0), np.array([-math.inf, 1, 2, 3, 4, 5]))
    assert same.value == same.high == pytest.approx(1.0)
    assert 0.6 < same.low < 0.95


def test_the_report_says_so(tmp_path):
    out = io.StringIO()
    print_report(load(write_sweep(tmp_path, search({"fp32": 3e-2, "bf16-mixed": 1e-3}))), Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "Do the best hyperparameters carry over?" in text
    words = " ".join(text.split())
    assert "moves: learning_rate in bf16-mixed and fp32: The best" in words
    assert "0.001" in words
