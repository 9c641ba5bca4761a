"""Searchers as Ray Tune runs them: what hands it the trials to run."""

from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.search import Searcher

from sweeps.search.plan import PlannedTrial


class PlannedTrials(Searcher):
    """Hands Tune the planned trials in their order.

    Args:
        trials: all trials of the search.
        to_beat: precision -> the best metric of a completed trial so far.
    """

    def __init__(self, trials: Sequence[PlannedTrial], to_beat: Callable[[str], float | None]) -> None:
        super().__init__()
        self._trials = iter(trials)
        self._to_beat = to_beat

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles searchers for a restore that is not used here."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial's own fields of :class:`trainables.spec.TrialSpec`."""
        trial = next(self._trials, None)
        if trial is None:
            return Searcher.FINISHED
        own = {"trial_id": trial.trial_id, "config": trial.config, "precision": trial.precision, "seed": trial.seed}
        return {"spec": own | {"to_beat": self._to_beat(trial.precision)}}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the plan does not depend on results."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a resumed sweep plans anew from its journal."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as for :meth:`save`."""
