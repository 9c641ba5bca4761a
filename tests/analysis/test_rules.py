"""Every rule of the verdict on evidence made by hand, and their order."""

import math
from dataclasses import replace

import pytest

from analysis.evidence import Evidence, Question
from analysis.intervals import Interval
from analysis.planning import pairs_for_width, pairs_needed
from analysis.power import num_pairs_needed
from analysis.rules import RULES, judge

NAN = math.nan


def logs(value, low, high, num=6, sd=0.01):
    return Interval(math.log(value), math.log(low), math.log(high), num, sd)


def delta(value, low, high, num=6, sd=0.003, fixed=0.0):
    return Interval(value, low, high, num, sd, fixed)


QUESTION = Question("fp32", "bf16-mixed", "val_accuracy", "max", 1.5, 0.01)

CLEAR = Evidence(
    question=QUESTION,
    num_ended=6,
    absent="",
    precision_fault="",
    digest_fault="",
    num_timed=6,
    num_contended=0,
    baseline_failures=(),
    arm_failures=(),
    num_compared=6,
    num_unscored=0,
    log_speedup=logs(1.92, 1.88, 1.96),
    delta=delta(0.001, -0.002, 0.004),
    over_examples=True,
    log_aa=logs(1.0, 0.99, 1.01),
    log_memory_ratio=0.3,
)


def test_pass_reads_as_one_sentence():
    assert judge(CLEAR) == (
        "PASS",
        "1.92x as fast as fp32 (1.88 to 1.96), val_accuracy +0.001 (-0.002 to +0.004): "
        "both clear of the target 1.5x and the margin 0.01.",
    )


# What alone makes each rule apply, in the order of RULES; the last is PASS, which needs nothing.
TRIGGERS = [
    ({"num_ended": 0, "absent": "bf16-mixed: 6 errored"}, "INVALID", "No pair: there is no seed with which both"),
    ({"precision_fault": "bf16-mixed was asked for, but"}, "INVALID", "bf16-mixed was asked for"),
    ({"digest_fault": "the initial weights differ"}, "INVALID", "The initial weights differ."),
    ({"num_contended": 4}, "INVALID", "4 of 6 timing pairs shared their device"),
    ({"log_aa": logs(1.05, 1.04, 1.06)}, "INVALID", "a copy of itself came out 1.05x (1.04 to 1.06), wholly outside"),
    ({"baseline_failures": ("diverged",)}, "INVALID", "fp32 itself diverged in 1 run, so it cannot be the baseline"),
    ({"log_speedup": Interval(NAN, NAN, NAN, 0)}, "INVALID", "No pair: no timing of bf16-mixed and fp32"),
    ({"arm_failures": ("diverged", "diverged")}, "FAIL", "bf16-mixed diverged in 2 of 6 runs where fp32 did not."),
    ({"log_speedup": logs(1.3, 1.2, 1.4)}, "FAIL", "1.30x as fast as fp32 (1.20 to 1.40): the whole interval"),
    ({"delta": delta(-0.03, -0.04, -0.02)}, "FAIL", "val_accuracy -0.030 (-0.040 to -0.020): the whole interval"),
    ({}, "PASS", "both clear of the target"),
]


def test_every_rule_has_its_evidence():
    assert len(TRIGGERS) == len(RULES)


@pytest.mark.parametrize("number", range(len(TRIGGERS)))
def test_each_rule_applies_to_its_evidence_and_to_no_other(number):
    changes, verdict, words = TRIGGERS[number]
    evidence = replace(CLEAR, **changes)
    first = next(index for index, (_, rule) in enumerate(RULES) if rule(evidence) is not None)
    assert first == number
    got, reason = judge(evidence)
    assert got == verdict
    assert words in reason
    assert reason.endswith(".")


# Where the order is not theirs: a wrong precision ends runs, and says more than that no pair is left; and an arm that
# failed need not have been timed.
NOT_BOTH = [(0, 1), (6, 7)]

PAIRS = [
    (earlier, later)
    for earlier in range(len(TRIGGERS))
    for later in range(earlier + 1, len(TRIGGERS))
    if (earlier, later) not in NOT_BOTH and not set(TRIGGERS[earlier][0]) & set(TRIGGERS[later][0])
]


@pytest.mark.parametrize(("earlier", "later"), PAIRS)
def test_the_earlier_rule_decides_where_two_apply(earlier, later):
    changes, verdict, words = TRIGGERS[earlier]
    got, reason = judge(replace(CLEAR, **TRIGGERS[later][0], **changes))
    assert got == verdict
    assert words in reason


def test_the_first_rule_decides_where_all_apply():
    everything = {}
    for changes, _, _ in reversed(TRIGGERS):
        everything |= changes
    assert judge(replace(CLEAR, **everything)) == ("INVALID", "bf16-mixed was asked for, but.")


def test_an_arm_that_failed_fails_without_a_timing_or_a_metric():
    nothing = Interval(NAN, NAN, NAN, 0)
    failed = replace(CLEAR, arm_failures=("out_of_memory",) * 6, log_speedup=nothing, delta=nothing, num_timed=0)
    assert judge(failed) == ("FAIL", "bf16-mixed ran out of memory in 6 of 6 runs where fp32 did not.")


def test_a_wrong_precision_is_named_rather_than_the_lack_of_pairs():
    evidence = replace(CLEAR, num_ended=0, precision_fault="bf16-mixed was asked for, but of 6 runs 6 ran in fp32")
    assert "ran in fp32" in judge(evidence)[1]


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        # The target is reached by a lower bound that equals it; a rounding error must not decide.
        ({"log_speedup": logs(1.6, 1.5, 1.7)}, "PASS"),
        ({"log_speedup": Interval(0.47, math.log(15) - math.log(10), 0.5, 6, 0.01)}, "PASS"),
        ({"log_speedup": logs(1.6, 1.4999, 1.7)}, "UNDERPOWERED"),
        # An upper bound on the target is not below it.
        ({"log_speedup": logs(1.4, 1.3, 1.5)}, "UNDERPOWERED"),
        ({"log_speedup": logs(1.4, 1.3, 1.4999)}, "FAIL"),
        # The margin itself is a loss that is not shown to be smaller, and not shown to be larger either.
        ({"delta": delta(0.0, -0.01, 0.01)}, "UNDERPOWERED"),
        ({"delta": delta(0.0, 0.97 - 0.98, 0.01)}, "UNDERPOWERED"),
        ({"delta": delta(0.0, -0.0099, 0.01)}, "PASS"),
        ({"delta": delta(-0.02, -0.03, -0.01)}, "UNDERPOWERED"),
        ({"delta": delta(-0.02, -0.03, 0.97 - 0.98)}, "UNDERPOWERED"),
        ({"delta": delta(-0.02, -0.03, -0.0101)}, "FAIL"),
        # The baseline against its copy: outside, touching, wide, not measured.
        ({"log_aa": logs(1.04, 1.0301, 1.05)}, "INVALID"),
        ({"log_aa": logs(1.04, 1.03, 1.05)}, "PASS"),
        ({"log_aa": logs(0.96, 0.95, 0.9699)}, "INVALID"),
        ({"log_aa": logs(1.0, 0.95, 0.95 * 1.1)}, "PASS"),
        ({"log_aa": logs(1.0, 0.95, 0.95 * 1.11, sd=0.05)}, "UNDERPOWERED"),
        ({"log_aa": Interval(NAN, NAN, NAN, 0)}, "UNDERPOWERED"),
        # Half of the timing pairs must have had their device for themselves.
        ({"num_contended": 3}, "PASS"),
        ({"num_contended": 4}, "INVALID"),
        # A completed pair without its metric is not one that held.
        ({"num_unscored": 1}, "UNDERPOWERED"),
        # One pair has no interval.
        ({"log_speedup": Interval(math.log(1.9), NAN, NAN, 1), "delta": Interval(0.0, NAN, NAN, 1)}, "UNDERPOWERED"),
        ({"delta": Interval(0.5, NAN, NAN, 6)}, "UNDERPOWERED"),
    ],
)
def test_boundaries(changes, verdict):
    assert judge(replace(CLEAR, **changes))[0] == verdict


@pytest.mark.parametrize("field", ["log_speedup", "delta", "log_aa"])
def test_no_nan_ever_passes(field):
    unknown = Interval(NAN, NAN, NAN, 6)
    assert judge(replace(CLEAR, **{field: unknown}))[0] == "UNDERPOWERED"
    assert judge(replace(CLEAR, **{field: replace(getattr(CLEAR, field), low=NAN)}))[0] == "UNDERPOWERED"


def test_underpowered_says_how_many_pairs():
    # 0.645 standard deviations from the target, which six pairs do not tell from half a one: 34 pairs.
    open_speed = replace(CLEAR, log_speedup=logs(1.6, 1.44, 1.78, sd=0.1))
    assert num_pairs_needed(open_speed) == 34
    verdict, reason = judge(open_speed)
    assert verdict == "UNDERPOWERED"
    assert reason.endswith("the target 1.5x lies within the speed-up's interval; about 34 pairs would decide it.")


def test_noisy_timing_says_how_many_pairs_would_sharpen_it():
    noisy = replace(CLEAR, log_aa=logs(1.0, 0.95, 1.06, sd=0.05))
    assert num_pairs_needed(noisy) == pairs_for_width(noisy.log_aa, math.log(1.1)) > 6


def test_what_holds_must_all_be_shown_but_one_loss_decides():
    speed = logs(1.6, 1.44, 1.78, sd=0.1)
    metric = delta(-0.008, -0.0103, 0.001, num=40, sd=0.0067)
    both = replace(CLEAR, log_speedup=speed, delta=metric)
    more = num_pairs_needed(replace(CLEAR, delta=metric))
    assert more == pairs_needed(metric, -0.01) > 34
    assert num_pairs_needed(both) == more
    losing = replace(both, delta=delta(-0.02, -0.031, -0.009, sd=0.006))
    assert num_pairs_needed(losing) == pairs_needed(losing.delta, -0.01) < 34


def test_underpowered_says_where_more_pairs_are_vain():
    close = replace(CLEAR, log_speedup=logs(1.501, 1.4, 1.6, num=300, sd=0.1))
    assert num_pairs_needed(close) is None
    assert judge(close)[1].endswith("the truth lies too close to the target for 1000 pairs to decide.")
    few = replace(CLEAR, delta=delta(0.0, -0.02, 0.02, sd=0.001, fixed=1e-4))
    assert num_pairs_needed(few) is None
    assert judge(few)[1].endswith("for this many validation examples, whatever the number of pairs.")
    one = replace(CLEAR, log_speedup=Interval(0.6, NAN, NAN, 1), delta=Interval(0.0, NAN, NAN, 1))
    assert "one pair gives no interval of the speed-up" in judge(one)[1]
    assert judge(one)[1].endswith("run at least 2 pairs, better 6.")


def test_notes_tell_what_was_left_out():
    e = replace(CLEAR, num_contended=1, absent="bf16-mixed: 1 errored", over_examples=False)
    assert judge(e)[1].endswith(
        "(1 of 6 timing pairs left out, their device was shared; seeds without a pair: bf16-mixed: 1 errored; "
        "the metric's interval is over seeds alone, without the spread of the validation examples)."
    )


def test_mode_min_says_that_positive_is_better():
    e = replace(CLEAR, question=replace(QUESTION, metric="val_loss", mode="min"))
    assert "val_loss better by +0.001 (-0.002 to +0.004)" in judge(e)[1]


def test_figures_never_round_onto_the_threshold_they_are_off():
    assert "(1.4999 to 1.70)" in judge(replace(CLEAR, log_speedup=logs(1.6, 1.4999, 1.7)))[1]
    assert "(-0.0099 to +0.004)" in judge(replace(CLEAR, delta=delta(0.001, -0.0099, 0.004)))[1]
