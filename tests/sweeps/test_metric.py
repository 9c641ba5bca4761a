"""What trials are ranked by."""

import pytest

from sweeps import Sweep, SweepError
from sweeps.engine.metric import metric_and_mode, stopping
from trainables.stopping import Stopping


def declare(**changes: object) -> Sweep:
    return Sweep(name="s", task="m:f", space={}, **changes)


@pytest.mark.parametrize(
    ("changes", "task_metrics", "expected"),
    [
        ({}, ["val_accuracy", "val_f1"], ("val_accuracy", "max")),
        ({}, [], ("val_loss", "min")),
        ({}, ["val_mse"], ("val_mse", "min")),
        ({"metric": "val_loss"}, ["val_accuracy"], ("val_loss", "min")),
        ({"metric": "val_loss", "mode": "max"}, [], ("val_loss", "max")),
        ({"mode": "min"}, ["val_own"], ("val_own", "min")),
    ],
)
def test_metric_and_mode(changes: dict, task_metrics: list, expected: tuple) -> None:
    assert metric_and_mode(declare(**changes), task_metrics) == expected


def test_a_metric_that_the_task_lacks_is_refused() -> None:
    with pytest.raises(SweepError, match=r"^metric: .*'val_acc'; did you mean 'val_accuracy'"):
        metric_and_mode(declare(metric="val_acc"), ["val_accuracy"])


def test_a_direction_is_not_guessed() -> None:
    with pytest.raises(SweepError, match=r"^mode: must be given for the metric val_mse_log"):
        metric_and_mode(declare(), ["val_mse_log"])


def test_each_target_is_reached_its_own_way() -> None:
    sweep = declare(stop_at={"val_own": 3, "val_loss": 0.1, "val_f1": 0.9}, patience=2, min_delta=0.5)
    targets = {"val_own": (3.0, "min"), "val_loss": (0.1, "min"), "val_f1": (0.9, "max")}
    assert stopping(sweep, "val_own", "min") == Stopping("val_own", "min", targets, 2, 0.5)
    assert stopping(declare(patience=4), "val_f1", "max") == Stopping("val_f1", "max", {}, 4)
    assert stopping(declare(), "val_f1", "max") is None


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("val_acc", r"^stop_at: must be a known name, got 'val_acc'; did you mean 'val_accuracy'"),
        ("val_own", r"^stop_at: needs to know which way val_own is better, got None; rank by it"),
    ],
)
def test_a_target_that_cannot_be_is_refused_once_the_metrics_are_known(name: str, error: str) -> None:
    sweep = declare(stop_at={name: 1.0})
    with pytest.raises(SweepError, match=error):
        metric_and_mode(sweep, ["val_accuracy", "val_own"])
