"""What trials are ranked by."""

import pytest

from sweeps import Sweep, SweepError
from sweeps.engine.metric import metric_and_mode


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
