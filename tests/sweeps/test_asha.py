import math
from pathlib import Path

import pytest
import ray
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from sweeps.engine.resume import LAST
from sweeps.search.asha import Asha
from sweeps.search.successive_halving import SuccessiveHalving

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def trial(precision: str, trial_id: str) -> Trial:
    """A trial of Tune's own, which needs no running Ray."""
    return Trial("train", config={"spec": {"precision": precision, "trial_id": trial_id}}, stub=True)


class Controller:
    """The one method of Tune's controller that schedulers use here."""

    def __init__(self, trials: list[Trial]) -> None:
        self.trials = trials

    def get_trials(self) -> list[Trial]:
        return self.trials


def result(t: int, **metrics: float | None) -> dict[str, float | None]:
    return {"training_iteration": t, **metrics}


def asha(mode: str = "max", max_t: int = 9) -> Asha:
    return Asha(SuccessiveHalving(max_t, mode=mode), "val_accuracy", mode)


def test_asha_as_the_controller_drives_it() -> None:
    scheduler = asha()
    trials = [trial("fp32", "a"), trial("fp32", "b"), trial("bf16-mixed", "c")]
    controller = Controller(trials)
    for each in trials:
        scheduler.on_trial_add(controller, each)
    assert scheduler.choose_trial_to_run(controller) is trials[0]
    assert scheduler.on_trial_result(controller, trials[0], result(1, val_accuracy=0.8)) == CONTINUE
    assert scheduler.on_trial_result(controller, trials[1], result(1, val_accuracy=0.7)) == STOP
    scheduler.on_trial_complete(controller, trials[1], result(1, val_accuracy=0.7))
    assert scheduler.on_trial_result(controller, trials[2], result(1, val_accuracy=0.1)) == CONTINUE
    assert scheduler.on_trial_result(controller, trials[0], result(2, val_accuracy=0.0)) == CONTINUE
    assert scheduler.on_trial_result(controller, trials[0], result(9, val_accuracy=0.9)) == CONTINUE
    scheduler.on_trial_complete(controller, trials[0], result(9, val_accuracy=0.9))
    scheduler.on_trial_error(controller, trials[2])
    assert scheduler.debug_string() == "Asha: rungs [1, 3], reached by fp32 [2, 1], bf16-mixed [1, 0], 1 stopped"
    assert not ray.is_initialized()


@pytest.mark.parametrize("metrics", [{}, {"val_accuracy": None}, {"val_accuracy": math.nan}])
def test_a_missing_metric_stops_at_a_rung(metrics: dict[str, float | None]) -> None:
    scheduler, one = asha(), trial("fp32", "a")
    assert scheduler.on_trial_result(None, one, result(1, **metrics)) == STOP


def test_a_result_without_time_is_left_alone() -> None:
    assert asha().on_trial_result(None, trial("fp32", "a"), {"val_accuracy": math.nan}) == CONTINUE


def test_a_last_result_that_only_completes_is_recorded() -> None:
    scheduler = asha()
    scheduler.on_trial_complete(None, trial("fp32", "a"), result(1, val_accuracy=0.9))
    assert scheduler.on_trial_result(None, trial("fp32", "b"), result(1, val_accuracy=0.8)) == STOP


def test_a_trial_that_had_enough_counts_at_the_rungs_that_it_did_not_come_to() -> None:
    """It reached 0.9 with its second report; at rung 3 a trial with 0.8 is then no better than second of two."""
    ended = result(2, val_accuracy=0.9) | {"report/status": "completed"}
    for status, decision in (("completed", STOP), ("diverged", CONTINUE)):
        scheduler, early, late = asha(), trial("fp32", "a"), trial("fp32", "b")
        assert scheduler.on_trial_result(None, late, result(1, val_accuracy=0.5)) == CONTINUE
        assert scheduler.on_trial_result(None, early, result(1, val_accuracy=0.6)) == CONTINUE
        scheduler.on_trial_complete(None, early, ended | {"report/status": status})
        assert scheduler.rule.num_recorded("fp32") == [2, int(status == "completed")]
        assert scheduler.on_trial_result(None, late, result(3, val_accuracy=0.8)) == decision
    replayed = asha()
    replayed.replay([("fp32", "b", 1, 0.5), ("fp32", "a", 1, 0.6), ("fp32", "a", LAST, 0.9)])
    assert replayed.on_trial_result(None, late, result(3, val_accuracy=0.8)) == STOP


def test_a_trial_too_short_for_any_rung_ends_as_it_did() -> None:
    scheduler, one = asha(max_t=1), trial("fp32", "a")
    scheduler.on_trial_complete(Controller([one]), one, {**result(1, val_accuracy=0.5), "report/status": "completed"})
    assert scheduler.rule.rungs == []


def test_a_resumed_trial_is_known_by_the_sweeps_id() -> None:
    scheduler = asha()
    scheduler.replay([("fp32", "a", 1, 0.9), ("fp32", "b", 1, 0.8)])
    assert scheduler.rule.num_recorded("fp32") == [2, 0]
    assert scheduler.on_trial_result(None, trial("fp32", "b"), result(1, val_accuracy=0.99)) == STOP
    assert scheduler.on_trial_result(None, trial("fp32", "a"), result(1, val_accuracy=0.1)) == CONTINUE
    assert scheduler.rule.num_recorded("fp32") == [2, 0]


def test_min_prefers_low_values() -> None:
    scheduler = asha(mode="min")
    assert scheduler.on_trial_result(None, trial("fp32", "a"), result(1, val_accuracy=0.2)) == CONTINUE
    assert scheduler.on_trial_result(None, trial("fp32", "b"), result(1, val_accuracy=0.3)) == STOP
    assert scheduler.on_trial_result(None, trial("fp32", "c"), result(1, val_accuracy=0.1)) == CONTINUE


def test_search_properties_may_be_repeated_but_not_changed() -> None:
    scheduler = asha()
    assert scheduler.metric == "val_accuracy"
    assert scheduler.set_search_properties(None, None)
    assert scheduler.set_search_properties("val_accuracy", "max")
    assert not scheduler.set_search_properties("val_loss", "min")


def test_records_survive_a_file(tmp_path: Path) -> None:
    before, after = asha(), asha()
    before.on_trial_result(None, trial("fp32", "a"), result(1, val_accuracy=0.9))
    before.save(str(tmp_path / "scheduler"))
    after.restore(str(tmp_path / "scheduler"))
    assert after.on_trial_result(None, trial("fp32", "b"), result(1, val_accuracy=0.8)) == STOP
