"""Searchers as Ray Tune runs them: what hands it the trials to run."""

from collections.abc import Sequence
from typing import Any

from ray.tune.search import Searcher

from sweeps.search.plan import PlannedTrial


class PlannedTrials(Searcher):
    """Hands Tune the planned trials in their order.

    Args:
        trials: all trials of the search.
    """

    def __init__(self, trials: Sequence[PlannedTrial]) -> None:
        super().__init__()
        self._trials = iter(trials)

    def suggest(self, trial_id: str) -> Any:
        """The next trial's own fields of :class:`trainables.spec.TrialSpec`."""
        trial = next(self._trials, None)
        if trial is None:
            return Searcher.FINISHED
        own = {"trial_id": trial.trial_id, "config": trial.config, "precision": trial.precision, "seed": trial.seed}
        return {"spec": own}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the plan does not depend on results."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a resumed sweep plans anew from its journal."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as for :meth:`save`."""
