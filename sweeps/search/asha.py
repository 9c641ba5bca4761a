"""Asynchronous successive halving as Ray Tune runs it; what it decides lives in a module without Ray."""

import math
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sweeps.search.successive_halving import SuccessiveHalving

TIME = "training_iteration"
"""The key of a result that counts reports."""

STATUS = "report/status"
"""The key of a result that holds a trial's status."""


class Asha(FIFOScheduler):
    """Stops trials by asynchronous successive halving among the trials of the same precision.

    A result without the metric counts as NaN. Trials at ``max_t`` are left to end by themselves, so that only a trial
    that lost a rung is stopped. One that completed before, since it had reached its target or a plateau, counts at the
    rungs that it did not come to with what it had: others have to match it there.

    Args:
        rule: decides who goes on.
        metric: the key of a result to rank by.
        mode: ``"max"`` or ``"min"``, the rule's own.
    """

    def __init__(self, rule: SuccessiveHalving, metric: str, mode: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rule = rule
        self._metric: str = metric
        self._mode = mode

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Whether metric and mode, where given, are the ones that the scheduler has already."""
        return metric in (None, self._metric) and mode in (None, self._mode)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> str:
        """``STOP`` where the trial lost a rung, else ``CONTINUE``."""
        goes_on = self._report(trial, result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> None:
        """Records the last result: Tune does not announce it where the trial ended with it."""
        self._report(trial, result)

    def replay(self, reports: Iterable[tuple[str, str, int, float]]) -> None:
        """Records what an interrupted sweep reported, so that a resumed one judges alike.

        Args:
            reports: precision, trial id, number of the report (from 1) and metric (NaN where unknown), in their order.
        """
        for precision, trial_id, t, value in reports:
            self.rule.report(precision, trial_id, t, value)

    def debug_string(self) -> str:
        """One line: the rungs, and how many trials of each precision reached them."""
        reached = ", ".join(f"{stratum} {self.rule.num_recorded(stratum)}" for stratum in self.rule.strata)
        return f"Asha: rungs {self.rule.rungs}, reached by {reached or 'none'}, {self.rule.num_stopped} stopped"

    def save(self, checkpoint_path: str) -> None:
        """Writes the rule's records to a file."""
        with open(checkpoint_path, "wb") as file:
            pickle.dump(self.rule, file)

    def restore(self, checkpoint_path: str) -> None:
        """Takes the rule's records from a file that :meth:`save` wrote."""
        with open(checkpoint_path, "rb") as file:
            self.rule = pickle.load(file)

    def _report(self, trial: Trial, result: Mapping[str, Any]) -> bool:
        if TIME not in result:
            return True
        spec = trial.config["spec"]
        value = result.get(self._metric)
        time = max([result[TIME], *self.rule.rungs]) if result.get(STATUS) == "completed" else result[TIME]
        # The sweep's own trial id, unlike Tune's, survives a resume.
        trial_id = spec.get("trial_id", trial.trial_id)
        return self.rule.report(spec["precision"], trial_id, time, math.nan if value is None else float(value))
