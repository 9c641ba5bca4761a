"""Why a sweep came to nothing, and when it did not."""

import pytest
from journals import arm, run, timing, trial, write_sweep

from analysis import load
from analysis.shortfall import shortfall


def probe(precision, status="completed", reason=None):
    return trial(f"probe-{precision}", stage="probe", precision=precision, status=status, status_reason=reason)


def searched(number, status="completed", reason=None):
    return trial(f"search-{number}", stage="search", precision="fp32", status=status, status_reason=reason)


USABLE = [probe("fp32"), probe("bf16-mixed")]
DIVERGED = "the training loss became nan by step {}"
PAIR = [run("c", 0, "fp32", 0.9), run("c", 0, "bf16-mixed", 0.9)]
TIMED = timing("c", 0, [arm("fp32", [2.0]), arm("bf16-mixed", [1.0])])


def why(tmp_path, records, **declared):
    return shortfall(load(write_sweep(tmp_path, records, **{"stage": "confirm", **declared})))


@pytest.mark.parametrize(
    ("records", "declared"),
    [
        (USABLE, {"stage": "probe"}),
        ([*USABLE, searched(0, "errored", "x"), searched(1, "pruned")], {"stage": "search"}),
        ([*USABLE, searched(0)], {"confirm": None}),
        ([*USABLE, searched(0), *PAIR, TIMED], {}),
        ([*USABLE, searched(0), *PAIR, run("c", 1, "fp32", 0.9, status="lost"), TIMED], {}),
    ],
)
def test_what_was_asked_for_was_measured(tmp_path, records, declared):
    assert why(tmp_path, records, **declared) is None


def test_the_commonest_end_of_the_search_is_named_whatever_the_numbers_in_its_reason(tmp_path):
    ends = [("errored", "planted"), ("errored", "other"), ("errored", None)]
    ends += [("diverged", DIVERGED.format(step)) for step in (20, 1.5e3)] + [("excluded", "the probe left it out")]
    records = USABLE + [searched(number, *end) for number, end in enumerate(ends)]
    expected = "no trial completed: 2 of 6 diverged (the training loss became nan by step 20)"
    assert why(tmp_path, records, stage="search") == expected
    assert why(tmp_path, records) == expected


def test_a_budget_that_was_spent_before_the_first_trial(tmp_path):
    spent = "no trial ran: budget_usd 0.5 was spent before the first; raise it, and --resume goes on"
    assert why(tmp_path / "none", USABLE, budget_usd=0.5, budget_hours=None) == spent
    left_out = [*USABLE, probe("fp16-mixed", "unsupported"), searched(0, "excluded", "the probe left it out")]
    both = why(tmp_path / "out", left_out, budget_usd=0.5, budget_hours=2.0)
    assert both == spent.replace("0.5", "0.5 or budget_hours 2.0")
    assert "errored" in why(tmp_path / "ran", [*USABLE, searched(0, "errored")], budget_usd=0.5)


def test_long_reasons_are_cut_and_missing_ones_left_out(tmp_path):
    long = why(tmp_path / "long", [*USABLE, searched(0, "out_of_memory", "x" * 999)])
    assert long.startswith("no trial completed: 1 of 1 out of memory (xxx")
    assert long.endswith("x...)")
    assert len(long) < 300
    assert why(tmp_path / "none", [*USABLE, searched(0, "errored")]) == "no trial completed: 1 of 1 errored"


def test_what_was_lost_can_be_run_again(tmp_path):
    went_on = "; --resume --run-name digits-1 runs again what was lost"
    assert why(tmp_path / "s", [*USABLE, searched(0, "lost")]) == f"no trial completed: 1 of 1 lost{went_on}"
    lost = run("c", 0, "bf16-mixed", 0.9, status="lost", status_reason="its node went away")
    expected = f"confirm gave no pair: 1 of 2 runs lost (its node went away){went_on}"
    assert why(tmp_path / "t" / "s", [*USABLE, searched(0), PAIR[0], lost]) == expected


def test_a_probe_that_leaves_nothing_and_a_search_without_trials(tmp_path):
    left_out = [probe("tf32", "unsupported", "needs sm_80"), probe("fp16-true", "unsupported", "needs sm_75")]
    expected = "no precision can be used here: 2 of 2 unsupported (needs sm_80)"
    for stage in ("probe", "search", "confirm"):
        assert why(tmp_path / stage, left_out, stage=stage) == expected
    assert why(tmp_path / "none", USABLE) == "no trial completed: there were none"


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (
            [probe("fp32"), probe("bf16-mixed", "excluded", "300 times slower"), searched(0)],
            "of the precisions, only fp32 can be used here: 1 of 2 excluded (300 times slower)",
        ),
        (
            [*USABLE, searched(0), PAIR[0], PAIR[1] | {"status": "diverged", "status_reason": DIVERGED.format(3)}],
            "1 of 2 runs diverged (the training loss became nan by step 3)",
        ),
        (
            [*USABLE, searched(0), *PAIR, timing("c", 0, [], status="errored", status_reason="planted")],
            "1 of 1 timings errored (planted)",
        ),
        ([*USABLE, searched(0), PAIR[0], run("c", 1, "bf16-mixed", 0.9)], "none of 2 runs failed"),
    ],
)
def test_a_confirmation_without_a_pair(tmp_path, records, expected):
    assert why(tmp_path, records) == f"confirm gave no pair: {expected}"
