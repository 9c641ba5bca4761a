"""What sweeps and arms cost, by journals made by hand."""

import io
import math

import pytest
from journals import arm, run, timing, trial, write_sweep
from rich.console import Console

from analysis import load
from analysis.money import dollars
from analysis.schema import ResultsError
from analysis.tables import print_report

BASE, ARM = "fp32", "bf16-mixed"
SPREAD = (-0.002, 0.0, 0.002)


def confirmed(config="c1", arm_ms=8.2, steps=(100, 100), seeds=range(3), lost=0.0, price=1.0, **ends):
    """Runs and timings of some seeds; a baseline's step takes 20 ms."""
    records = []
    for seed in seeds:
        for precision, num, metric in ((BASE, steps[0], 0.9), (ARM, steps[1], 0.9 - lost + SPREAD[seed % 3])):
            columns = {"steps": num, "cost_usd": price}
            records.append(run(config, seed, precision, metric, **columns | ends.get(precision, {})))
        arms = [arm(BASE, [20.0] * 8), arm(ARM, [arm_ms + 0.01 * seed] * 8), arm(BASE, [20.0 + 0.1 * seed] * 8, True)]
        records.append(timing(config, seed, arms))
    return records


def verdict(tmp_path, *records, config_id="c1", **declaration):
    rows = load(write_sweep(tmp_path, list(records), **declaration)).verdicts
    return rows[rows["config_id"] == config_id].iloc[0]


def test_the_same_training_costs_by_its_time_on_a_free_device(tmp_path):
    row = verdict(tmp_path, *confirmed(seeds=[0]))
    assert row["cost_ratio"] == pytest.approx(0.41)
    assert math.isnan(row["cost_ratio_low"])
    row = verdict(tmp_path / "three", *confirmed())
    assert row["cost_ratio"] == pytest.approx(1 / row["speedup"])
    assert row["cost_ratio"] == pytest.approx((8.2 * 8.21 * 8.22) ** (1 / 3) / 20)
    assert row["cost_ratio_low"] == pytest.approx(1 / row["speedup_high"])
    assert row["cost_ratio_high"] == pytest.approx(1 / row["speedup_low"])


def test_money_is_told_with_the_metric_only_where_that_is_shown(tmp_path):
    shown = verdict(tmp_path / "same", *confirmed())
    assert shown["verdict"] == "PASS"
    assert shown["reason"].endswith(
        " The same val_accuracy, within 0.01, for 41 % (41 to 41 %) of the money that training steps cost in fp32."
    )
    unknown = " Training steps cost 41 % (41 to 41 %) of those in fp32; the same val_accuracy is not shown."
    lost = verdict(tmp_path / "lost", *confirmed(lost=0.05))
    assert lost["verdict"] == "FAIL"
    assert lost["reason"].endswith(unknown)
    open_one = verdict(tmp_path / "open", *confirmed(lost=0.008))
    assert open_one["verdict"] == "UNDERPOWERED"
    assert open_one["reason"].endswith(unknown)
    slow = verdict(tmp_path / "slow", *confirmed(arm_ms=22.0))
    assert slow["verdict"] == "FAIL"
    assert slow["reason"].endswith(" 110 % (110 to 110 %) of the money that training steps cost in fp32.")


def test_an_arm_that_failed_is_never_called_the_same(tmp_path):
    failed = run("c1", 5, ARM, None, status="diverged", steps=10, cost_usd=0.1)
    row = verdict(tmp_path, *confirmed(), run("c1", 5, BASE, 0.9, steps=100, cost_usd=1.0), failed)
    assert row["verdict"] == "FAIL"
    assert row["cost_ratio"] == pytest.approx(0.41, rel=0.01)
    assert row["reason"].endswith("the same val_accuracy is not shown.")


def test_a_cost_that_is_hardly_known_is_told_with_its_interval(tmp_path):
    records = confirmed(seeds=[0, 1])
    records[-1]["arms"][1]["window_ms"] = [12.0] * 8  # half as slow again
    row = verdict(tmp_path, *records)
    assert row["cost_ratio_low"] < 0.1 < 2 < row["cost_ratio_high"]
    assert " Training steps cost 50 % (4.41 to 557 %) of those in fp32; " in row["reason"]


def test_what_is_invalid_says_nothing_of_money(tmp_path):
    row = verdict(tmp_path, *confirmed(**{ARM: {"effective_precision": BASE}}))
    assert row["verdict"] == "INVALID"
    assert "cost" not in row["reason"]


def test_without_a_price_there_is_none(tmp_path):
    row = verdict(tmp_path / "none", *confirmed(price=None))
    assert math.isnan(row["cost_ratio"])
    assert row["verdict"] == "PASS"
    assert "cost" not in row["reason"]
    assert math.isnan(verdict(tmp_path / "one", *confirmed(**{ARM: {"cost_usd": None}}))["cost_ratio"])
    untimed = [record for record in confirmed() if record["kind"] != "timing"]
    assert math.isnan(verdict(tmp_path / "untimed", *untimed)["cost_ratio"])
    disturbed = [record | {"contended": True} if record["kind"] == "timing" else record for record in confirmed()]
    assert math.isnan(verdict(tmp_path / "disturbed", *disturbed)["cost_ratio"])


def test_best_against_best_counts_the_steps_of_each(tmp_path):
    # fp32 is best in c1 (100 steps of 20 ms), bf16-mixed in c2, of half the batch size: 200 steps of 8 ms.
    search = [
        trial(f"s-{config}-{name}", stage="search", config_id=config, precision=name, status="completed", **best)
        for config, name, best in (
            ("c1", BASE, {"best_val_accuracy": 0.9}),
            ("c2", ARM, {"best_val_accuracy": 0.9}),
        )
    ]
    records = confirmed("c1", steps=(100, 100)) + confirmed("c2", arm_ms=8.0, steps=(200, 200))
    row = verdict(tmp_path, *search, *records, config_id="best")
    assert row["cost_ratio"] == pytest.approx(200 * 8.01 / (100 * 20), rel=1e-3)
    nothing = [record | {"steps": None} if record["kind"] == "trial" else record for record in records]
    assert math.isnan(verdict(tmp_path / "unknown", *search, *nothing, config_id="best")["cost_ratio"])
    assert verdict(tmp_path / "same", *nothing)["cost_ratio"] == pytest.approx(0.41, rel=0.01)


def whole_sweep():
    search = [
        trial("a", stage="search", precision=BASE, status="completed", cost_usd=0.25),
        trial("b", stage="search", precision=BASE, status="lost", cost_usd=None),
        trial("c", stage="search", precision=ARM, status="excluded", num_cpus=0),  # never ran
    ]
    probe = [trial("p", stage="probe", precision=BASE, status="excluded", cost_usd=0.05)]
    block = timing("c1", 0, [arm(BASE, [20.0] * 8), arm(ARM, [10.0] * 8)], cost_usd=0.5)
    failed = timing("c1", 1, [], status="errored", device=None)
    return [*probe, *search, run("c1", 0, BASE, 0.9, cost_usd=1000.0), block, failed]


def test_what_a_sweep_cost_by_stage(tmp_path):
    results = load(write_sweep(tmp_path, whole_sweep()))
    assert results.costs.to_dict("list") == {
        "sweep": ["digits-1"] * 4,
        "stage": ["probe", "search", "confirm", "timing"],
        "num_runs": [1, 2, 1, 2],
        "num_known": [1, 1, 1, 1],
        "cost_usd": [0.05, 0.25, 1000.0, 0.5],
    }
    assert list(results.timings["cost_usd"].dropna()) == [0.25, 0.25]


def test_what_is_timed_or_probed_again_has_cost_both_times(tmp_path):
    failed = timing("c1", 0, [], status="errored", cost_usd=2.0)
    again = timing("c1", 0, [arm(BASE, [20.0] * 8), arm(ARM, [10.0] * 8)], cost_usd=0.5)
    results = load(write_sweep(tmp_path / "both", [failed], [again]))
    assert list(results.timings["cost_usd"]) == [1.25, 1.25]
    assert list(results.costs["cost_usd"]) == [2.5]
    probed = trial("probe-fp32", stage="probe", precision=BASE, status="completed", cost_usd=0.25)
    assert list(load(write_sweep(tmp_path / "probe", [probed], [probed])).trials["cost_usd"]) == [0.5]
    with pytest.raises(ResultsError, match="must be a record of the journal"):
        load(write_sweep(tmp_path / "damaged", [probed, {**probed, "cost_usd": "much"}]))
    unknown = load(write_sweep(tmp_path / "unknown", [{**failed, "cost_usd": None}], [again]))
    assert list(unknown.costs["num_known"]) == [0]


def told(folder):
    out = io.StringIO()
    print_report(load(folder), Console(file=out, width=80))
    return " ".join(out.getvalue().split())


def test_the_report_says_what_a_sweep_cost_and_what_is_unknown(tmp_path):
    whole = "Cost $1,000.80 (probe $0.05, search $0.25, confirm $1,000.00, timing $0.5)"
    assert f"{whole}; unknown of 2 of 6 runs" in told(write_sweep(tmp_path / "priced", whole_sweep()))
    free = [{**record, "cost_usd": None} for record in whole_sweep()]
    assert "Cost" not in told(write_sweep(tmp_path / "free", free))
    assert load(tmp_path / "free").costs["cost_usd"].isna().all()
    unfit = told(write_sweep(tmp_path / "unfit", free, usd_per_hour={"H10": 12.3}))  # as mistyped
    assert " Cost unknown of 6 of 6 runs " in unfit
    assert load(write_sweep(tmp_path / "empty")).costs.empty


def test_what_a_search_spent_is_what_its_last_line_says(tmp_path):
    from analysis.journal import read_journal

    lines = [{"kind": "spent", "run_s": seconds} for seconds in (1.5, 12.0)]  # as earlier versions wrote them
    last = read_journal(write_sweep(tmp_path / "two", lines, [{"kind": "spent", "run_s": 14, "usd": 2.5}]))
    assert (last.run_s, last.spent_usd) == (14, 2.5)
    none = read_journal(write_sweep(tmp_path / "none"))
    assert (none.run_s, none.spent_usd) == (0, 0)


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        (0, "$0"),
        (1e-7, "$0.0000001"),
        (5.5e-5, "$0.000055"),
        (0.05, "$0.05"),
        (0.4, "$0.4"),
        (0.1234, "$0.123"),
        (0.9996, "$1.00"),
        (1, "$1.00"),
        (12345.678, "$12,345.68"),
    ],
)
def test_sums_of_money(usd, shown):
    assert dollars(usd) == shown
