"""Early stopping: by curves made by hand, by a plain reading of its rule, and in trials."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.spec import WEIGHTS_FILE, Budget, Checkpoints, TrialSpec
from trainables.stopping import Stopping, enough, num_without_better
from trainables.trial import run_trial

MakeSpec = Callable[..., TrialSpec]


def curve(*values: float, name: str = "val_accuracy") -> list[dict[str, float]]:
    return [{name: value, "val_loss": 1 - value} for value in values]


def patient(patience: int | None, mode: Any = "max", min_delta: float = 0.0, **targets: Any) -> Stopping:
    return Stopping("val_accuracy", mode, targets, patience, min_delta)


@pytest.mark.parametrize(
    ("values", "stopping", "expected"),
    [
        ([0.1, 0.2, 0.3], patient(1), None),
        ([0.5], patient(1), None),  # the first is better than none
        ([0.5, 0.5], patient(1), "val_accuracy no better for 1 report, by step 81"),
        ([0.5, 0.4, 0.5], patient(3), None),
        ([0.5, 0.4, 0.5, 0.5], patient(3), "val_accuracy no better for 3 reports, by step 81"),
        ([0.5, 0.4, 0.3, 0.6], patient(3), None),
        ([0.5, 0.4, 0.3, 0.6], patient(1, mode="min"), "val_accuracy no better for 1 report, by step 81"),
        ([0.5, 0.6, 0.4], patient(1, mode="min"), None),
        ([0.2, 0.3], patient(1, min_delta=0.1), None),  # in floats the gain is a little less
        ([0.9, 0.9009], patient(1, min_delta=0.001), "val_accuracy no better for 1 report, by step 81"),
        ([0.9, 0.9006, 0.9012], patient(2, min_delta=0.001), None),  # small gains add up
        ([0.9, 0.9006, 0.9009], patient(2, min_delta=0.001), "val_accuracy no better for 2 reports, by step 81"),
        ([math.nan, 0.1], patient(1), None),
        ([0.1, math.nan], patient(1), "val_accuracy no better for 1 report, by step 81"),
        ([0.1, math.inf, 0.2], patient(1), None),  # an infinity is no record to beat
        ([math.nan, math.nan], patient(1), "val_accuracy no better for 1 report, by step 81"),
        ([0.94], patient(None, val_accuracy=(0.95, "max")), None),
        ([0.95], patient(None, val_accuracy=(0.95, "max")), "val_accuracy reached 0.95 by step 81"),
        ([0.96, 0.94], patient(None, val_accuracy=(0.95, "max")), None),  # it had ended with the first one
        ([math.nan], patient(None, val_accuracy=(0.95, "max")), None),
        ([0.7], patient(None, val_loss=(0.3, "min")), None),
        ([0.75], patient(None, val_loss=(0.3, "min")), "val_loss reached 0.3 by step 81"),
        ([0.75], patient(None, val_accuracy=(0.95, "max"), val_loss=(0.3, "min")), "val_loss reached 0.3 by step 81"),
        ([0.75], patient(None, val_f1=(0.1, "max")), None),  # which it does not have
        ([0.5, 0.95, 0.95], patient(1, val_accuracy=(0.95, "max")), "val_accuracy reached 0.95 by step 81"),
    ],
)
def test_curves_made_by_hand(values: list[float], stopping: Stopping, expected: str | None):
    assert enough(stopping, curve(*values), 81) == expected


VALUES = st.lists(st.integers(0, 100) | st.just(math.nan), min_size=1, max_size=12)


@settings(max_examples=50, deadline=None)
@given(values=VALUES, patience=st.integers(1, 5), mode=st.sampled_from(["max", "min"]))
def test_a_plateau_is_a_last_stretch_none_of_which_beats_what_came_before(
    values: list[float], patience: int, mode: str
):
    """Where every gain counts, the last better value is the first best one."""
    pick = max if mode == "max" else min
    known = [value for value in values if not math.isnan(value)]
    at = values.index(pick(known)) if known else 0
    assert num_without_better(patient(patience, mode), curve(*values)) == len(values) - 1 - at
    assert (enough(patient(patience, mode), curve(*values), 1) is not None) is (len(values) - 1 - at >= patience)


@settings(max_examples=50, deadline=None)
@given(values=VALUES, delta=st.integers(0, 20), patience=st.integers(1, 5))
def test_better_is_mirrored_in_min_and_gains_below_min_delta_do_not_count(
    values: list[float], delta: int, patience: int
):
    rising, falling = patient(patience, "max", delta), patient(patience, "min", delta)
    waited = num_without_better(rising, curve(*values))
    assert waited == num_without_better(falling, curve(*(-value for value in values)))
    assert waited >= num_without_better(patient(patience), curve(*values)) or delta == 0
    since = [value for value in values[len(values) - waited :] if not math.isnan(value)]
    reference = values[len(values) - 1 - waited]
    assert all(value < reference + max(delta, 1) for value in since)


@settings(max_examples=50, deadline=None)
@given(values=VALUES, patience=st.integers(1, 5))
def test_a_trial_that_ended_would_not_have_ended_a_report_before(values: list[float], patience: int):
    stopping = patient(patience)
    ends = [n for n in range(1, len(values) + 1) if enough(stopping, curve(*values[:n]), 1)]
    if ends:
        assert num_without_better(stopping, curve(*values[: ends[0]])) == patience


PLATEAU = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from trainables import Task

def build(config):
    # its metric follows a curve that the configuration gives, one value a report
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(inputs, (inputs.sum(1) > 0).long())
    values = iter(config["curve"])
    def made_up(outputs, batch):
        return torch.full((len(batch[0]),), next(values))
    return Task(nn.Linear(8, 2), data, TensorDataset(*data[:16]), metrics={"made_up": made_up})
"""


@pytest.mark.parametrize("budget", [Budget(max_epochs=6), Budget(max_steps=24, report_every_steps=4)])
@pytest.mark.parametrize(
    ("stopping", "num_reports", "reason"),
    [
        (None, 6, None),
        (Stopping("val_made_up", "max", {}, 2), 5, "val_made_up no better for 2 reports, by step 20"),
        (Stopping("val_made_up", "max", {}, 2, 0.15), 4, "val_made_up no better for 2 reports, by step 16"),
        (Stopping("val_made_up", "max", {"val_made_up": (0.5, "max")}), 3, "val_made_up reached 0.5 by step 12"),
        (Stopping("val_made_up", "max", {"val_made_up": (0.7, "max")}), 6, None),  # with its last report
        (Stopping("val_made_up", "max", {"val_made_up": (0.9, "max")}, 6), 6, None),
    ],
)
def test_a_trial_ends_early_completed_and_says_why(
    make_spec: MakeSpec, task_file: Any, tmp_path: Path, budget: Budget, stopping: Any, num_reports: int, reason: Any
):
    kept = Checkpoints(str(tmp_path / "kept"), 1000, "val_made_up", "max")
    config = {"batch_size": 16, "curve": [0.2, 0.4, 0.5, 0.5, 0.5, 0.7]}
    options = {"config": config, "budget": budget, "checkpoints": kept, "examples_of": "val_made_up"}
    spec = make_spec(task_file(PLATEAU), stopping=stopping, **options)
    spec = TrialSpec.from_dict(json.loads(json.dumps(spec.to_dict())))  # as it travels
    reports = list(run_trial(spec))
    assert [report.status for report in reports] == ["running"] * (num_reports - 1) + ["completed"]
    end = reports[-1]
    assert (end.status_reason, end.step) == (reason, 4 * num_reports)
    assert end.checkpoint == str(tmp_path / "kept" / "t" / WEIGHTS_FILE)
    assert torch.load(end.checkpoint, weights_only=True).keys() == {"weight", "bias"}
    assert end.examples is not None
    assert end.examples.tolist() == [pytest.approx(config["curve"][num_reports - 1])] * 16


def test_a_resumed_trial_counts_the_reports_before(make_spec: MakeSpec, tmp_path: Path):
    """Whatever its model learns: nothing is better than a gain of 1000."""
    kept = Checkpoints(str(tmp_path), 0, "val_loss", "min")
    stopping = Stopping("val_loss", "min", {}, 4, 1000.0)
    spec = make_spec("build", checkpoints=kept, budget=Budget(max_epochs=9), stopping=stopping)
    reports = run_trial(spec)
    list(itertools.islice(reports, 3))
    reports.close()  # type: ignore[attr-defined]
    found = list(run_trial(spec))
    assert [report.epoch for report in found] == [1, 2, 3, 4, 5]
    assert found[-1].status_reason == "val_loss no better for 4 reports, by step 20"
