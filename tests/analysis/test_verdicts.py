"""From hand-written journals to verdicts: how runs and timings become pairs, and pairs evidence."""

import math

import pytest
from journals import arm, run, timing, trial, write_examples, write_sweep

from analysis import load
from analysis.baselines import side_by_side
from analysis.schema import VERDICT_COLUMNS

SEEDS = range(6)
SPREAD = (-0.002, -0.001, 0.0, 0.0, 0.001, 0.002)
SPEED = {"fp32": 1.0, "tf32": 1.6, "bf16-mixed": 2.0, "fp16-mixed": 1.8}


def timed(config, seed, precisions=("fp32", "bf16-mixed"), speed=SPEED, copy="fp32", **columns):
    """Windows of 20 ms over the speed, a little different in every seed."""
    noise = 1 + 0.01 * math.sin(seed)
    arms = [arm(name, [20 * (noise if name != "fp32" else 1) / speed[name]] * 8) for name in precisions]
    copies = [arm(copy, [20 / speed[copy] * (1 + 0.001 * math.cos(seed))] * 8, is_copy=True)]
    return timing(config, seed, arms + copies, **columns)


def block(config, seed, metrics, **timing_columns):
    """The runs of one configuration and seed, precision -> metric, and their timing."""
    runs = [run(config, seed, name, metric) for name, metric in metrics.items()]
    return [*runs, timed(config, seed, tuple(metrics), **timing_columns)]


def good(config="c1", gain=0.0):
    return [
        record
        for seed in SEEDS
        for record in block(config, seed, {"fp32": 0.95, "bf16-mixed": 0.95 + gain + SPREAD[seed]})
    ]


def change(records, trial_id, **columns):
    return [*records, trial(trial_id, **columns)]


def verdicts(tmp_path, records, **declaration):
    return load(write_sweep(tmp_path, records, **declaration)).verdicts


def only(tmp_path, records, config_id="c1", **declaration):
    """The one verdict of bf16-mixed against fp32 on a configuration."""
    found = verdicts(tmp_path, records, **declaration)
    rows = found[
        (found["config_id"] == config_id) & (found["precision"] == "bf16-mixed") & (found["baseline"] == "fp32")
    ]
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_pass_by_hand(tmp_path):
    row = only(tmp_path, good())
    assert row["verdict"] == "PASS"
    assert (row["sweep"], row["device"], row["metric"], row["num_pairs"]) == ("digits-1", "H200", "val_accuracy", 6)
    logs = [math.log(2 / (1 + 0.01 * math.sin(seed))) for seed in SEEDS]
    assert row["speedup"] == pytest.approx(math.exp(sum(logs) / 6))
    # sd of SPREAD is sqrt(1e-5 / 5), t(5) = 2.570582
    half = 2.570582 * math.sqrt(1e-5 / 5 / 6)
    assert row["metric_delta"] == pytest.approx(0.0, abs=1e-12)
    assert row["metric_delta_low"] == pytest.approx(-half, rel=1e-5)
    assert row["metric_delta_high"] == pytest.approx(half, rel=1e-5)
    assert row["memory_ratio"] == 1.0
    assert row["aa_low"] < 1 < row["aa_high"] < 1.01
    assert math.isnan(row["time_to_target_ratio"])


def test_the_speed_up_is_the_mean_over_paired_windows(tmp_path):
    # Windows drift together from 10 to 80 ms; by windows the arm is exactly twice as fast, by their medians too.
    drift = [10.0, 80.0, 30.0, 20.0]
    arms = [arm("fp32", drift), arm("bf16-mixed", [d / 2 for d in drift[:3]] + [5.0]), arm("fp32", drift, True)]
    records = [run("c1", s, p, 0.9) for s in SEEDS for p in ("fp32", "bf16-mixed")]
    row = only(tmp_path, records + [timing("c1", s, arms) for s in SEEDS])
    assert row["speedup"] == pytest.approx(2 * 2**0.25)


def test_dtypes_and_no_confirm(tmp_path):
    found = verdicts(tmp_path / "a", good())
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == VERDICT_COLUMNS
    assert len(verdicts(tmp_path / "b", good(), confirm=None)) == 0
    assert len(verdicts(tmp_path / "c", [trial("probe-fp32", stage="probe", precision="fp32")])) == 0


FIRST = "confirm-c1-0-bf16-mixed"
BASE = "confirm-c1-0-fp32"


@pytest.mark.parametrize(
    ("arm", "base", "verdict"), [(True, True, "PASS"), (True, False, "INVALID"), (True, None, "PASS")]
)
def test_a_pair_of_which_only_one_arm_was_compiled_is_invalid(tmp_path, arm, base, verdict):
    """What is not known, as in results from before, is no fault."""
    row = only(tmp_path, change(change(good(), FIRST, compiled=arm), BASE, compiled=base))
    assert row["verdict"] == verdict
    words = "One of bf16-mixed and fp32 ran compiled and the other did not (set compile for both) in 1 of 12 pairs"
    assert (words in row["reason"]) is (verdict == "INVALID")


@pytest.mark.parametrize(
    ("trial_id", "columns", "verdict", "words"),
    [
        (FIRST, {"effective_precision": "fp32"}, "INVALID", "of 12 runs and timings 1 ran in fp32"),
        (FIRST, {"effective_precision": None}, "INVALID", "of 12 runs and timings 1 could not be observed"),
        (FIRST, {"status": "precision_mismatch", "effective_precision": "fp32"}, "INVALID", "1 ran in fp32"),
        (BASE, {"effective_precision": "tf32"}, "INVALID", "fp32 was asked for, but"),
        (FIRST, {"init_digest": "x"}, "INVALID", "initial weights of bf16-mixed and fp32 differ in 1 of 12"),
        (BASE, {"data_digest": "x"}, "INVALID", "order of the data differs between"),
        (FIRST, {"init_digest": None}, "INVALID", "initial weights of bf16-mixed and fp32 were not recorded"),
        (BASE, {"data_digest": None}, "INVALID", "order of the data was not recorded"),
        (BASE, {"status": "out_of_memory"}, "INVALID", "fp32 itself ran out of memory in 1 run"),
        (FIRST, {"status": "diverged"}, "FAIL", "bf16-mixed diverged in 1 of 6 runs where fp32 did not"),
        (
            FIRST,
            {"status": "out_of_memory", "device": None, "init_digest": None},
            "FAIL",
            "ran out of memory in 1 of 6",
        ),
        (FIRST, {"status": "errored"}, "PASS", "seeds without a pair: bf16-mixed: 1 errored"),
        (FIRST, {"status": "running"}, "PASS", "seeds without a pair: bf16-mixed: 1 running"),
        (FIRST, {"val_accuracy": None}, "UNDERPOWERED", "1 completed pair has no val_accuracy that is a number"),
        (BASE, {"val_accuracy": None}, "UNDERPOWERED", "1 completed pair has no val_accuracy that is a number"),
    ],
)
def test_one_run_that_is_not_as_it_should_be(tmp_path, trial_id, columns, verdict, words):
    row = only(tmp_path, change(good(), trial_id, **columns))
    assert (row["verdict"], words in row["reason"]) == (verdict, True), row["reason"]


def test_a_failure_that_both_arms_share_is_the_baselines(tmp_path):
    records = change(change(good(), FIRST, status="diverged"), BASE, status="diverged")
    row = only(tmp_path, records)
    assert row["verdict"] == "INVALID"
    assert row["speedup"] > 1.9
    assert row["memory_ratio"] == 1.0


def test_all_runs_of_the_arm_errored(tmp_path):
    records = good()
    for seed in SEEDS:
        records = change(records, f"confirm-c1-{seed}-bf16-mixed", status="errored")
    row = only(tmp_path, records)
    assert row["verdict"] == "INVALID"
    assert row["reason"].endswith("ran to an end (bf16-mixed: 6 errored).")


def test_all_runs_of_the_arm_out_of_memory_need_no_timing(tmp_path):
    records = [record for record in good() if record["kind"] == "trial"]
    for seed in SEEDS:
        records = change(records, f"confirm-c1-{seed}-bf16-mixed", status="out_of_memory", effective_precision=None)
    row = only(tmp_path, records)
    assert row["verdict"] == "FAIL"
    assert "6 of 6" in row["reason"]
    assert row["num_pairs"] == 0
    assert math.isnan(row["speedup"])


def test_runs_without_any_timing(tmp_path):
    row = only(tmp_path, [record for record in good() if record["kind"] == "trial"])
    assert row["verdict"] == "INVALID"
    assert "no timing of bf16-mixed and fp32 was completed" in row["reason"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [({"effective_precision": None}, "1 could not be observed"), ({"init_digest": "x"}, "differ in 1 of 12 pairs")],
)
def test_timed_arms_are_checked_like_runs(tmp_path, columns, words):
    bad = timing("c1", 0, [arm("fp32", [20.0]), arm("bf16-mixed", [10.0], **columns), arm("fp32", [20.0], True)])
    row = only(tmp_path, [*good(), bad])
    assert row["verdict"] == "INVALID"
    assert words in row["reason"]


def test_contended_pairs_are_left_out_until_too_few_remain(tmp_path):
    slow = {"fp32": 1.0, "bf16-mixed": 0.5}
    some = [timed("c1", seed, contended=True, speed=slow) for seed in (0, 1)]
    row = only(tmp_path / "some", good() + some)
    assert (row["verdict"], row["num_pairs"]) == ("PASS", 4)
    assert row["speedup"] > 1.9
    assert "2 of 6 timing pairs left out" in row["reason"]
    most = [timed("c1", seed, contended=True, contention=f"python {seed} was busy") for seed in range(4)]
    row = only(tmp_path / "most", good() + most)
    assert row["verdict"] == "INVALID"
    assert "4 of 6 timing pairs shared their device with other work (python 0 was busy)" in row["reason"]
    unknown = [timed("c1", seed, contended=None) for seed in SEEDS]
    assert only(tmp_path / "unknown", good() + unknown)["verdict"] == "PASS"


def test_failed_timings_do_not_count(tmp_path):
    failed = [timing("c1", 0, [], status="errored"), timing("c1", 1, [], status="lost", device=None)]
    row = only(tmp_path, good() + failed)
    assert (row["verdict"], row["num_pairs"]) == ("PASS", 5)


def test_a_biased_timing(tmp_path):
    biased = [
        timing("c1", s, [arm("fp32", [20.0]), arm("bf16-mixed", [10.0]), arm("fp32", [19.0 + 0.01 * s], True)])
        for s in SEEDS
    ]
    row = only(tmp_path, good() + biased)
    assert row["verdict"] == "INVALID"
    assert row["aa_low"] > 1.03


def test_one_pair_is_never_enough(tmp_path):
    row = only(tmp_path, block("c1", 0, {"fp32": 0.95, "bf16-mixed": 0.99}))
    assert (row["verdict"], row["num_pairs"]) == ("UNDERPOWERED", 1)
    assert row["speedup"] == pytest.approx(2.0)
    assert math.isnan(row["speedup_low"])
    assert "one pair gives no interval" in row["reason"]


def test_the_same_difference_every_time_has_no_known_spread(tmp_path):
    records = [record for s in SEEDS for record in block("c1", s, {"fp32": 0.95, "bf16-mixed": 0.95})]
    row = only(tmp_path, records)
    assert (row["verdict"], row["metric_delta"]) == ("UNDERPOWERED", 0.0)
    assert math.isnan(row["metric_delta_low"])


def with_examples(folder, right):
    """Six seeds in which an arm gets right what ``right(precision, seed)`` says, example by example."""
    records = []
    for seed in SEEDS:
        answers = {name: right(name, seed) for name in ("fp32", "bf16-mixed")}
        records += block("c1", seed, {name: sum(values) / len(values) for name, values in answers.items()})
    write_sweep(folder, records)
    for seed in SEEDS:
        for name in ("fp32", "bf16-mixed"):
            write_examples(folder, f"confirm-c1-{seed}-{name}", right(name, seed))
    return load(folder).verdicts.iloc[0]


def test_examples_widen_the_interval(tmp_path):
    # In every seed the same 2 of 100 examples are lost: over seeds alone the loss is 0.02 without any doubt.
    def right(name, seed):
        return [1.0] * 98 + [0.0 if name == "bf16-mixed" else 1.0] * 2

    row = with_examples(tmp_path, right)
    assert row["metric_delta"] == pytest.approx(-0.02)
    # Variance p(1-p)/(E-1) of the examples and two more that differ as much as these do, by 0.98 from the mean (and the
    # others by 0.02); t(99) = 1.984217
    effect = (0.02 * 0.98**4 + 0.98 * 0.02**4) / (0.02 * 0.98**2 + 0.98 * 0.02**2)
    half = 1.984217 * math.sqrt(0.02 * 0.98 / 99 + 2 * effect / 100**2)
    assert row["metric_delta_low"] == pytest.approx(-0.02 - half, rel=1e-5)
    assert row["verdict"] == "UNDERPOWERED"


@pytest.mark.parametrize(("num", "t", "verdict"), [(100, 1.984217, "UNDERPOWERED"), (1000, 1.962341, "PASS")])
def test_no_difference_in_few_examples_shows_little(tmp_path, num, t, verdict):
    row = with_examples(tmp_path, lambda name, seed: [1.0] * (num - 3) + [0.0] * 3)
    assert row["metric_delta_high"] == pytest.approx(t * math.sqrt(2) / num, rel=1e-5)
    assert row["verdict"] == verdict


def test_examples_that_are_not_the_metric_are_not_used(tmp_path):
    folder = write_sweep(tmp_path, good())
    for seed in SEEDS:
        for name in ("fp32", "bf16-mixed"):
            write_examples(folder, f"confirm-c1-{seed}-{name}", [0.1, 0.2, 0.3])
    row = load(folder).verdicts.iloc[0]
    assert row["metric_delta"] == pytest.approx(0.0, abs=1e-12)
    assert "over seeds alone" in row["reason"]


def test_mode_min_is_oriented_so_that_more_is_better(tmp_path):
    records = []
    for seed in SEEDS:
        losses = {"fp32": 0.5, "bf16-mixed": 0.4 + SPREAD[seed]}
        records += [run("c1", seed, name, None, val_loss=loss) for name, loss in losses.items()] + [timed("c1", seed)]
    row = only(tmp_path, records, metric="val_loss", mode="min")
    assert row["metric_delta"] == pytest.approx(0.1)
    assert row["verdict"] == "PASS"
    assert "val_loss better by +0.100" in row["reason"]


def test_devices_are_judged_apart(tmp_path):
    records = good()
    for seed in SEEDS:
        for name in ("fp32", "bf16-mixed"):
            metric = 0.95 if name == "fp32" else 0.75 + SPREAD[seed]
            records.append(run("c1", seed + 10, name, metric, device="A100"))
        records.append(timed("c1", seed + 10, device="A100"))
    found = verdicts(tmp_path, records)
    rows = found[found["config_id"] == "c1"].set_index("device")
    assert rows["verdict"].to_dict() == {"H200": "PASS", "A100": "FAIL"}


def test_every_baseline_against_every_stronger_precision(tmp_path):
    records = [
        record
        for seed in SEEDS
        for record in block(
            "c1", seed, {"fp32": 0.95, "tf32": 0.95 + SPREAD[seed], "bf16-mixed": 0.95 + 2 * SPREAD[seed]}
        )
    ]
    declared = {"precisions": ["bf16-mixed", "fp32", "tf32", "fp8-rowwise"], "baselines": ["tf32", "fp32"]}
    found = verdicts(tmp_path, records, **declared)
    rows = found[found["config_id"] == "c1"]
    assert list(zip(rows["precision"], rows["baseline"], strict=True)) == [
        ("bf16-mixed", "tf32"),
        ("bf16-mixed", "fp32"),
        ("tf32", "fp32"),
    ]
    assert rows["verdict"].tolist() == ["FAIL", "PASS", "PASS"]
    assert rows["speedup"].iloc[0] == pytest.approx(2 / 1.6, rel=1e-3)
    # A PASS against the weaker baseline says that the stronger one alone would pass, too; that one's own does not.
    assert rows["reason"].str.endswith(" But tf32 alone gives 1.60x of it.").tolist() == [False, True, False]


def three_arms(**speeds):
    """Runs and timings of fp32, tf32 and bf16-mixed of about the same metric."""
    metrics = {"fp32": 0.95, "tf32": 0.95, "bf16-mixed": 0.95}
    return [
        record
        for seed in SEEDS
        for record in block(
            "c1",
            seed,
            {name: metric + SPREAD[seed] * (name != "fp32") for name, metric in metrics.items()},
            speed=SPEED | speeds,
        )
    ]


@pytest.mark.parametrize(("speed", "named"), [(1.45, False), (1.55, True)])
def test_a_stronger_baseline_is_named_only_where_it_reaches_the_target(tmp_path, speed, named):
    declared = {"precisions": ["fp32", "tf32", "bf16-mixed"], "baselines": ["fp32", "tf32"]}
    row = only(tmp_path, three_arms(tf32=speed), **declared)
    assert row["verdict"] == "PASS"
    assert ("tf32 alone" in row["reason"]) == named


def test_a_stronger_baseline_whose_timing_is_invalid_is_not_named(tmp_path):
    declared = {"precisions": ["fp32", "tf32", "bf16-mixed"], "baselines": ["fp32", "tf32"]}
    row = only(tmp_path, change(three_arms(), "confirm-c1-0-tf32", effective_precision="fp32"), **declared)
    assert row["verdict"] == "PASS"
    assert "tf32 alone" not in row["reason"]


def test_baselines_side_by_side(tmp_path):
    declared = {"precisions": ["fp32", "tf32", "bf16-mixed"], "baselines": ["fp32", "tf32"]}
    found = verdicts(tmp_path, three_arms(), **declared)
    wide = side_by_side(found)
    assert list(wide.columns[:5]) == ["sweep", "device", "config_id", "precision", "target_speedup"]
    rows = wide[wide["config_id"] == "c1"].set_index("precision")
    assert rows.loc["bf16-mixed", "speedup/fp32"] == pytest.approx(2.0, rel=0.01)
    assert rows.loc["bf16-mixed", "speedup/tf32"] == pytest.approx(1.25, rel=0.01)
    assert rows.loc["bf16-mixed", "speedup_low/tf32"] < rows.loc["bf16-mixed", "speedup/tf32"]
    assert rows.loc["tf32", "speedup/fp32"] == pytest.approx(1.6, rel=0.01)
    assert math.isnan(rows.loc["tf32", "speedup/tf32"])
    assert (rows.loc["bf16-mixed", "verdict/fp32"], rows.loc["bf16-mixed", "verdict/tf32"]) == ("PASS", "FAIL")
    # A baseline that is no precision of the ladder is one more set of columns.
    more = found.assign(baseline=found["baseline"].replace("tf32", "fp32 (default route)"))
    assert "speedup/fp32 (default route)" in side_by_side(more)
    assert len(side_by_side(found.iloc[:0])) == 0


def searched(config, precision, best, val_loss=0.1, **columns):
    values = {"best_val_accuracy": best, "val_loss": val_loss, "status": "completed"} | columns
    return trial(f"search-{config}-{precision}", stage="search", precision=precision, config_id=config, **values)


@pytest.mark.parametrize(("default_ms", "says"), [(30, True), (20, False), (None, False)])
def test_the_baseline_by_default_kernels_stands_beside_and_decides_nothing(tmp_path, default_ms, says):
    records = good()
    for record in records:
        if record["kind"] == "timing" and default_ms is not None:
            record["arms"].append(arm("fp32", [default_ms] * 8, is_default=True, route="default"))
    row = only(tmp_path, records)
    assert row["verdict"] == "PASS"
    assert row["speedup"] == pytest.approx(2.0, rel=0.01)
    assert row["speedup_over_default"] == pytest.approx(
        math.nan if default_ms is None else default_ms / 10, rel=0.01, nan_ok=True
    )
    assert ("3.00x as fast as fp32 by PyTorch's default kernels" in row["reason"]) is says
    side = side_by_side(load(tmp_path).verdicts).iloc[0]
    assert side["speedup_over_default/fp32"] == pytest.approx(row["speedup_over_default"], nan_ok=True)


def test_a_baseline_whose_own_route_is_the_default_one_is_its_own_default(tmp_path):
    records = good()
    for record in records:
        for each in record.get("arms", []):
            each["route"] = "default"
    row = only(tmp_path, records)
    assert row["speedup_over_default"] == pytest.approx(row["speedup"])


def test_best_against_best(tmp_path):
    search = [
        searched("c1", "fp32", 0.9),
        searched("c2", "fp32", 0.8),
        searched("c1", "bf16-mixed", 0.9, val_loss=0.3),
        searched("c2", "bf16-mixed", 0.9, val_loss=0.2),
        searched("c0", "bf16-mixed", 0.99),  # not confirmed
        searched("c3", "bf16-mixed", 0.999, status="diverged"),
    ]
    other = []
    for seed in SEEDS:
        metrics = {"fp32": 0.90, "bf16-mixed": 0.97 + SPREAD[seed]}
        other += block("c2", seed, metrics, batch_size=128)
        other += [run("c3", seed, name, metric) for name, metric in metrics.items()]
    row = only(tmp_path, search + good() + other, "best")
    # bf16-mixed on c2 against fp32 on c1: twice as fast on twice the batch size, and 0.97 against 0.95.
    assert row["speedup"] == pytest.approx(4.0, rel=5e-3)
    assert row["metric_delta"] == pytest.approx(0.02)
    assert row["num_pairs"] == 6
    assert row["verdict"] == "PASS"
    assert row["reason"].startswith("Best bf16-mixed (c2) against best fp32 (c1): 4.")


def test_best_of_one_configuration_is_its_paired_comparison(tmp_path):
    found = verdicts(tmp_path, good()).drop(columns="config_id")
    assert len(found) == 2
    assert found.iloc[0].equals(found.iloc[1])


def test_without_a_search_no_configuration_is_the_best_of_several(tmp_path):
    assert verdicts(tmp_path, good("c1") + good("c2"))["config_id"].tolist() == ["c1", "c2"]


def test_several_sweeps_are_judged_apart(tmp_path):
    one = write_sweep(tmp_path / "1", good())
    two = write_sweep(tmp_path / "2", good(gain=-0.1), run_name="other")
    rows = load(one, two).verdicts.query("config_id == 'c1'")
    assert dict(zip(rows["sweep"], rows["verdict"], strict=True)) == {"digits-1": "PASS", "other": "FAIL"}
