"""Time to the target quality, by histories made by hand: a report is 20 steps, of 20 ms each, or of the arm 10 ms."""

import math

import pytest
from journals import arm, run, timing, trial, write_sweep

from analysis import load

BASE, ARM = "fp32", "bf16-mixed"


def report(config, seed, precision, step, value):
    trial_id = f"confirm-{config}-{seed}-{precision}"
    record = {"kind": "report", "trial_id": trial_id, "stage": "confirm", "epoch": step / 20, "step": step}
    return record | {"train_s": 99.0, "val_accuracy": value}


def block(seed, base, other, config="c1", **ends):
    """The runs of one seed, their reports of the metric, and their timing."""
    records = []
    for precision, values in ((BASE, base), (ARM, other)):
        end = {"status": ends[precision], "val_accuracy": None} if precision in ends else {}
        records.append(run(config, seed, precision, values[-1], **end))
        records += [report(config, seed, precision, 20 * (n + 1), value) for n, value in enumerate(values)]
    arms = [arm(BASE, [20.0] * 8), arm(ARM, [10.0] * 8), arm(BASE, [20.0] * 8, is_copy=True)]
    return [*records, timing(config, seed, arms)]


def ratio(tmp_path, *blocks, config_id="c1", **declaration):
    found = load(write_sweep(tmp_path, [record for block in blocks for record in block], **declaration)).verdicts
    return found.loc[found["config_id"] == config_id, "time_to_target_ratio"].item()


def curve(reports, end=0.91, before=0.5, length=6):
    """A metric that reaches what it ends with at the given report."""
    return [before] * (reports - 1) + [end] * (length - reports + 1)


def test_steps_count_at_the_step_times_of_the_timing(tmp_path):
    # The arm needs 4 reports where the baseline needs 3, of steps that take half the time.
    assert ratio(tmp_path, *(block(seed, curve(3), curve(4)) for seed in range(3))) == pytest.approx(2 * 3 / 4)


def test_the_median_over_seeds_of_the_paired_ratios(tmp_path):
    needed = [(3, 3), (2, 4), (5, 1)]  # ratios of steps: 1, 1/2, 5
    assert ratio(tmp_path, *(block(n, curve(a), curve(b)) for n, (a, b) in enumerate(needed))) == pytest.approx(2.0)


def test_an_even_number_takes_the_geometric_mean_of_the_middle_two(tmp_path):
    needed = [(4, 1), (4, 4), (2, 4), (2, 2)]  # 4, 1, 1/2, 1
    assert ratio(tmp_path, *(block(n, curve(a), curve(b)) for n, (a, b) in enumerate(needed))) == pytest.approx(2.0)


def test_the_target_is_the_baselines_median_end_less_the_margin(tmp_path):
    # Ends 0.90, 0.92, 0.99: target 0.92 - 0.01. The first seed's baseline never reaches it, the arm always at once.
    bases = [curve(2, end) for end in (0.90, 0.92, 0.99)]
    assert ratio(tmp_path, *(block(n, base, curve(1, 0.911)) for n, base in enumerate(bases))) == pytest.approx(2 * 2)
    assert ratio(tmp_path / "below", *(block(n, base, curve(1, 0.909)) for n, base in enumerate(bases))) == 0.0


def test_a_target_that_the_sweep_states_takes_the_place_of_the_baselines_end(tmp_path):
    # By their ends they need 4 and 1 reports; 0.95 the arm reaches with its third, the baseline with its sixth.
    blocks = [block(n, [0.5] * 3 + [0.91] * 2 + [0.95], [0.94] * 2 + [0.96] * 4) for n in range(2)]
    assert ratio(tmp_path / "own", *blocks) == pytest.approx(2 * 6)
    assert ratio(tmp_path / "stated", *blocks, stop_at={"val_accuracy": 0.95}) == pytest.approx(2 * 6 / 3)
    assert ratio(tmp_path / "another", *blocks, stop_at={"val_loss": 0.1}) == pytest.approx(2 * 6)
    assert math.isnan(ratio(tmp_path / "never", *blocks, stop_at={"val_accuracy": 0.99}))


def test_a_miss_stays_in(tmp_path):
    miss, hit = curve(1, 0.5), curve(3)
    one = [block(0, hit, miss), block(1, hit, hit), block(2, hit, hit)]
    assert ratio(tmp_path / "one of three", *one) == pytest.approx(2.0)
    assert ratio(tmp_path / "two of three", *one[:2], block(2, hit, miss)) == 0.0
    diverged = [block(n, hit, hit, **{BASE: "diverged"}) for n in (1, 2)]
    assert ratio(tmp_path / "the baseline's", block(0, hit, hit), *diverged) == math.inf


def test_where_both_miss_the_median_is_known_if_it_does_not_depend_on_it(tmp_path):
    miss, hit = curve(1, 0.5), curve(3)
    blocks = [block(0, hit, hit), block(1, hit, hit), block(2, hit, hit), block(3, miss, miss)]
    assert ratio(tmp_path / "known", *blocks) == pytest.approx(2.0)
    differing = [block(0, hit, curve(1)), block(1, hit, hit), block(2, miss, miss)]
    assert math.isnan(ratio(tmp_path / "unknown", *differing))


@pytest.mark.parametrize("status", ["diverged", "out_of_memory"])
def test_a_run_that_failed_is_a_miss_even_if_it_came_by(tmp_path, status):
    hit = curve(3)
    blocks = [block(0, hit, hit), *(block(n, hit, hit, **{ARM: status}) for n in (1, 2))]
    assert ratio(tmp_path, *blocks) == 0.0


def test_a_run_of_which_nothing_is_known_leaves_its_pair_out(tmp_path):
    hit = curve(3)
    errored = block(1, hit, curve(1), **{ARM: "errored"})
    assert ratio(tmp_path / "errored", block(0, hit, hit), errored) == pytest.approx(2.0)
    silent = [record for record in block(1, hit, curve(1)) if record["kind"] != "report"]
    assert ratio(tmp_path / "no reports", block(0, hit, hit), silent) == pytest.approx(2.0)
    nothing = [record for record in block(0, hit, hit) if record["kind"] != "report"]
    assert math.isnan(ratio(tmp_path / "none", nothing))
    untimed = [record for record in block(0, hit, hit) if record["kind"] != "timing"]
    assert math.isnan(ratio(tmp_path / "untimed", untimed))


def test_a_metric_of_which_less_is_better(tmp_path):
    blocks = [block(n, [5.0, 3.0, 1.0, 1.0], [5.0, 1.005, 2.0, 2.0]) for n in range(3)]
    assert ratio(tmp_path, *blocks, mode="min") == pytest.approx(2 * 3 / 2)


def test_different_configurations_by_their_own_steps(tmp_path):
    # Best fp32 is c1, best bf16-mixed is c2: 4 reports of 20 ms steps against 2 of 10 ms steps.
    search = [
        trial(
            f"s-{config}-{name}",
            stage="search",
            config_id=config,
            precision=name,
            status="completed",
            best_val_accuracy=best,
        )
        for config, name, best in (("c1", BASE, 0.9), ("c2", ARM, 0.9), ("c2", BASE, 0.8), ("c1", ARM, 0.8))
    ]
    blocks = [block(seed, curve(4), curve(6), "c1") for seed in (0, 1)]
    blocks += [block(seed, curve(6), curve(2), "c2") for seed in (0, 1)]
    assert ratio(tmp_path, search, *blocks, config_id="best") == pytest.approx(4.0)


def test_timing_that_shared_its_device_does_not_count(tmp_path):
    slow = timing("c1", 1, [arm(BASE, [20.0] * 8), arm(ARM, [40.0] * 8)], contended=True)
    assert ratio(tmp_path, block(0, curve(3), curve(3)), block(1, curve(3), curve(3)), [slow]) == pytest.approx(2.0)
