"""Searches as Ray Tune runs them: what hands it the trials to run, planned ahead or as results suggest."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from analysis.schema import UNFINISHED
from sweeps.search.asha import STATUS
from sweeps.search.checks import SweepError
from sweeps.search.new_searcher import new_searcher
from sweeps.search.plan import PlannedTrial, follows_results, plan_search, recorded_trial, search_id, search_trial
from sweeps.search.suggester import EXHAUSTED, Suggester
from trainables.spec import Checkpoints

if TYPE_CHECKING:
    from sweeps.engine.sweep import Sweep

Rows = Mapping[str, Mapping[str, Any]]
"""Trials of the search by id, as the journal has them."""

MOST_IDLE = 20
"""How often in a row all searchers may wait while no trial runs; Tune then asks about once a second."""


class Search(Searcher):
    """Hands Tune the trials of a search.

    Args:
        trials: known by now; ``trials`` has them by id, and further ones as they are chosen.
        total: trials that it hands out at most.

    ``template`` has the fields of :class:`trainables.spec.TrialSpec` that all trials share, ``routes`` each precision's
    kernel route by device type; ``to_beat`` tells the best metric of a completed trial of a precision so far, for the
    trials to know; ``error`` is what a searcher raised, ``remark`` why the search ended early where nothing was raised.
    """

    def __init__(self, trials: Sequence[PlannedTrial], total: int) -> None:
        super().__init__()
        self.trials = {trial.trial_id: trial for trial in trials}
        self.total = total
        self.template: Mapping[str, Any] = {}
        self.routes: dict[str, dict[str, str]] = {}
        self.to_beat: Callable[[str], float | None] = lambda precision: None
        self.error: SweepError | None = None
        self.remark: str | None = None

    def started(self, trial: Trial) -> None:
        """Takes note that a trial got its worker."""

    def _config(self, trial: PlannedTrial) -> dict[str, Any]:
        """A trial's configuration as Tune hands it to its worker."""
        own = {"trial_id": trial.trial_id, "config": trial.config, "precision": trial.precision, "seed": trial.seed}
        routes = self.routes.get(trial.precision, {})
        return {"spec": {**self.template, **own, "routes": routes, "to_beat": self.to_beat(trial.precision)}}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles searchers for a restore that is not used here."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a resumed sweep goes by its journal."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as for :meth:`save`."""


class PlannedTrials(Search):
    """Hands Tune the planned trials in their order.

    Args:
        trials: all trials of the search.
    """

    def __init__(self, trials: Sequence[PlannedTrial]) -> None:
        super().__init__(trials, len(trials))
        self._left = iter(trials)

    def suggest(self, trial_id: str) -> Any:
        """The next trial's own fields of :class:`trainables.spec.TrialSpec`."""
        trial = next(self._left, None)
        return EXHAUSTED if trial is None else self._config(trial)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the plan does not depend on results."""


class Suggested(Search):
    """Hands Tune trials whose configurations a searcher of their precision suggests; the precisions take turns.

    Each precision has a searcher of its own, so that no precision's results steer another's search. Where the search
    goes on after an interruption, what has ended is told to the searchers first, and what had begun runs again first.

    As many trials wait for their start as there are free slots, and always one: each is chosen without the results of
    those before it that have not ended.

    Args:
        suggesters: the searcher of each precision.
        seed: the sweep's.
        num_trials: runs of the whole search, earlier processes' among them.
        past: the trials of earlier processes.
        slots: trials that the cluster runs at once, as it stands.

    Raises:
        SweepError: a searcher raised an error.
    """

    def __init__(self, suggesters: Mapping[str, Suggester], seed: int, num_trials: int, past: Rows, slots: int) -> None:
        self._suggesters, self._seed, self._slots = suggesters, seed, slots
        self._again = deque(recorded_trial(row) for row in past.values() if row["status"] in UNFINISHED)
        self._left = _left(list(suggesters), num_trials, past)
        self._launched: dict[str, PlannedTrial] = {}
        self._started: dict[str, Trial] = {}
        self._num_idle = 0
        super().__init__(self._again, len(self._again) + sum(map(len, self._left.values())))
        for row in past.values():
            self._recall(row)

    def suggest(self, trial_id: str) -> Any:
        """The next trial's own fields of :class:`trainables.spec.TrialSpec`; ``None`` where it has to wait."""
        trial: PlannedTrial | str | None = EXHAUSTED
        if self.error is None:
            if not self._has_room():
                return None
            with self._ending_the_search():
                trial = self._again.popleft() if self._again else self._chosen()
        if not isinstance(trial, PlannedTrial):
            return trial
        self.trials[trial.trial_id] = self._launched[trial_id] = trial
        return self._config(trial)

    def started(self, trial: Trial) -> None:
        """Takes note that a trial got its worker."""
        self._started[trial.trial_id] = trial

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tells the searcher of a trial's precision what the trial reported."""
        trial = self._launched[trial_id]
        if _is_sound(result):
            with self._ending_the_search():
                self._suggesters[trial.precision].report(trial.trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the searcher of a trial's precision how the trial ended."""
        trial = self._launched.pop(trial_id)
        self._started.pop(trial_id, None)
        sound = not error and result is not None and _is_sound(result)
        with self._ending_the_search():
            self._suggesters[trial.precision].end(trial, result if sound else None)

    def _has_room(self) -> bool:
        waiting = len(self._launched) - len(self._started)
        # Trials that a scheduler has paused count as neither, since they may wait for further ones themselves.
        running = sum(trial.status == Trial.RUNNING for trial in self._started.values())
        return waiting < max(1, self._slots - running)

    def _chosen(self) -> PlannedTrial | str | None:
        """A new trial in the precision that has come least far, of those whose searchers do not wait."""
        for precision in sorted(self._left, key=lambda name: self._left[name][0]):
            index = self._left[precision][0]
            config = self._suggesters[precision].suggest(search_id(index, precision))
            if isinstance(config, dict):
                self._left[precision].popleft()
            if config == EXHAUSTED or not self._left[precision]:
                del self._left[precision]
            if isinstance(config, dict):
                self._num_idle = 0
                return search_trial(self._seed, index, config, precision)
        return self._waiting() if self._left else EXHAUSTED

    def _waiting(self) -> str | None:
        """``None``; but where a searcher waits for what will never come, the search ends.

        Ray's BayesOptSearch does after a failed trial: it counts the results of its random start, not their failures.
        """
        self._num_idle = 0 if self._launched else self._num_idle + 1
        if self._num_idle < MOST_IDLE:
            return None
        names = sorted({self._suggesters[precision].name for precision in self._left})
        short = sum(map(len, self._left.values()))
        self.remark = f"{', '.join(names)} waits for results though no trial runs; the search ends {short} trials early"
        return EXHAUSTED

    def _recall(self, row: Mapping[str, Any]) -> None:
        trial = recorded_trial(row)
        if row["status"] in UNFINISHED:
            self._suggesters[trial.precision].expect(trial)
        else:
            self._suggesters[trial.precision].end(trial, row if row["status"] in ("completed", "pruned") else None)

    @contextmanager
    def _ending_the_search(self) -> Iterator[None]:
        """Lets a searcher's first error end the search once the running trials have ended; Tune would drop them."""
        try:
            yield
        except SweepError as error:
            self.error = self.error or error


def make_search(sweep: "Sweep", precisions: Sequence[str], ranks: Checkpoints, past: Rows, slots: int) -> Search:
    """The search of a sweep, or what is left of it.

    Args:
        sweep: what to search.
        precisions: those that remain after the probe.
        ranks: by what metric trials are compared.
        past: the trials of earlier processes.
        slots: trials that the cluster runs at once, as it stands.

    Raises:
        SweepError: the points cannot be read, or the searcher cannot be used.
    """
    if not follows_results(sweep):
        planned = {trial.trial_id: trial for trial in plan_search(sweep, precisions)}
        # As recorded: pbt may have changed a trial's hyperparameters, and its checkpoint is of those.
        begun = {name: recorded_trial(row) for name, row in past.items() if row["status"] in UNFINISHED}
        return PlannedTrials(
            [begun.get(name, trial) for name, trial in planned.items() if name in begun or name not in past]
        )
    share = sweep.num_trials // len(precisions)
    suggesters = {
        name: Suggester(new_searcher(sweep, share), sweep.space, ranks.metric, ranks.mode) for name in precisions
    }
    return Suggested(suggesters, sweep.seed, sweep.num_trials, past, slots)


def _is_sound(result: Mapping[str, Any]) -> bool:
    """Whether a result that Tune passes on is that of a trial that has not failed."""
    return result.get(STATUS) in ("running", "completed")


def _left(precisions: Sequence[str], num_trials: int, past: Rows) -> dict[str, deque[int]]:
    """The numbers of the configurations that each precision has still to choose, as a plan would share them out."""
    left = {
        precision: deque(
            index
            for index in range(len(range(position, num_trials, len(precisions))))
            if search_id(index, precision) not in past
        )
        for position, precision in enumerate(precisions)
    }
    return {precision: indices for precision, indices in left.items() if indices}
