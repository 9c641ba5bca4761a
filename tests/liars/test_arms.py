"""Liars about what is compared: arms that do something else, runs that are no pairs, clocks that others share."""

import random
from typing import Any

import pytest
from planted import BOTH, Confirmed, source, widths

from sweeps.search.plan import confirm_seeds
from trainables import pairs
from trainables.spec import Budget, TimingJob, TrialSpec

pytestmark = pytest.mark.usefixtures("virtual_clock")


def config(case: str, draw: random.Random, **fields: Any) -> dict[str, Any]:
    return {"case": case, "learning_rate": 0.02, "batch_size": 16, "widths": widths(draw), "speedup": 2.0, **fields}


def both(confirmed: Confirmed, own: dict[str, Any], **fields: Any) -> Any:
    """The verdict on the liar, once its twin, which is twice as fast, has passed."""
    twin = confirmed(own | {"lies": False}, **fields)
    assert twin.verdict == "PASS", twin.reason
    return confirmed(own | {"lies": True}, **fields)


@pytest.mark.parametrize(
    ("case", "says"), [("builds_another_model", "initial weights"), ("builds_other_data", "order of the data")]
)
def test_arms_that_do_not_start_alike(case: str, says: str, draw: random.Random, confirmed: Confirmed) -> None:
    verdict = both(confirmed, config(case, draw))
    assert verdict.verdict == "INVALID", verdict.reason
    assert says in verdict.reason


def test_an_arm_that_computes_less(draw: random.Random, confirmed: Confirmed) -> None:
    verdict = both(confirmed, config("trains_on_less", draw, share=draw.choice([0.25, 0.5, 0.7])))
    assert verdict.verdict == "INVALID", verdict.reason
    assert "FLOPs" in verdict.reason


def test_an_arm_that_changes_its_arithmetic_while_it_is_timed(draw: random.Random, confirmed: Confirmed) -> None:
    """Only in timing: a full run takes 12 steps, an arm at least 20."""
    own = config("arm_changes_later", draw, after=draw.randint(15, 20))
    twin = TimingJob(TrialSpec("block", source(), own | {"lies": False}, "", 1, Budget()), BOTH, windows=2)
    arms = pairs.time_block(twin)["arms"]
    assert all(arm["effective_precision"] == arm["precision"] for arm in arms)
    verdict = confirmed(own | {"lies": True}, num_seeds=2)
    assert (verdict.verdict, verdict.num_pairs) == ("INVALID", 2)
    assert "of 4 runs and timings 2 ran in fp32" in verdict.reason


def test_a_fast_arm_at_chance_accuracy(draw: random.Random, confirmed: Confirmed) -> None:
    verdict = both(confirmed, config("learns_nothing", draw, speedup=draw.uniform(1.8, 4.0)), margin=0.1)
    assert verdict.verdict == "FAIL", verdict.reason
    assert verdict.speedup > 1.7
    assert "the whole interval lies below -0.1" in verdict.reason


def test_an_arm_that_finishes_fewer_runs(draw: random.Random, confirmed: Confirmed) -> None:
    verdict = both(confirmed, config("diverges_with_some_seeds", draw, of=draw.choice([2, 3])))
    assert verdict.verdict == "FAIL", verdict.reason
    assert "diverged" in verdict.reason


def test_survivors_of_pruning_offered_as_pairs(draw: random.Random, confirmed: Confirmed) -> None:
    """Runs of the search, or full runs that a scheduler cut short: what it chose to finish is no sample."""
    own = config("learns_nothing", draw, lies=False)
    twin = confirmed(own)
    assert twin.verdict == "PASS", twin.reason
    offered = {"stage": "search"} if draw.random() < 0.5 else {"cut_short": confirm_seeds(0, 3)}
    verdict = confirmed(own, **offered)
    assert (verdict.verdict, verdict.num_pairs) == ("INVALID", 0)
    assert "no pair" in verdict.reason.lower()


def test_an_arm_that_is_slower_than_it_should_be(draw: random.Random, confirmed: Confirmed) -> None:
    own = config("learns_nothing", draw, lies=False, speedup=draw.uniform(0.5, 1.4))
    verdict = confirmed(own, num_seeds=3)
    assert verdict.verdict == "FAIL", verdict.reason
    assert "lies below the target 1.5x" in verdict.reason
