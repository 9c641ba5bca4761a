"""A Ray Tune searcher as that of one precision: asked for plain configurations, told only what can be trusted."""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any, Literal

from ray.tune.search import Searcher

from sweeps.search.checks import SweepError, refuse
from sweeps.search.configurations import Configuration, config_id
from sweeps.search.domains import Domain
from sweeps.search.plan import PlannedTrial
from sweeps.search.space import RESERVED, Space
from sweeps.search.tune_space import from_tune, to_tune

EXHAUSTED = Searcher.FINISHED
"""Stands for a configuration where a searcher has no more of them."""


class Suggester:
    """Asks a Ray Tune searcher for the configurations of one precision, and tells it how they did.

    A trial that failed, or whose metric is not finite, is told as an error without a result, and so poisons nothing.

    Args:
        searcher: used by nobody else. Where it has a metric, a mode or a space of its own, it keeps it.
        space: the sweep's; its constants are filled in where the searcher leaves them out.
        metric, mode: what the sweep ranks by.

    Raises:
        SweepError: the searcher raised an error.
    """

    def __init__(self, searcher: Searcher, space: Space, metric: str, mode: Literal["max", "min"]) -> None:
        self._searcher, self._space = searcher, space
        self.name = type(searcher).__name__
        domains = {name: value for name, value in space.items() if isinstance(value, Domain)}
        converted = {name: to_tune(domain) for name, domain in domains.items()}
        with self._blamed("set_search_properties"), _quiet_optuna():
            own: Any = searcher.metric or metric
            self._metrics: list[str] = [own] if isinstance(own, str) else list(own)
            taken = searcher.set_search_properties(own, searcher.mode or mode, converted)
        self._domains = domains if taken else {}
        self._asked: dict[str, str] = {}
        self._known: dict[str, dict[str, Any] | None] = {}
        self._num_known = 0

    def suggest(self, trial_id: str) -> Configuration | str | None:
        """The next configuration; ``None`` where the searcher waits for results, :data:`EXHAUSTED` where it is done.

        Args:
            trial_id: whose it is going to be.

        Raises:
            SweepError: the searcher raised an error, or suggested what cannot be run.
        """
        while True:
            name = f"{trial_id}-{self._num_known}" if self._num_known else trial_id
            with self._blamed("suggest"):
                suggestion: Any = self._searcher.suggest(name)
            if suggestion is None or suggestion == EXHAUSTED:
                return None if suggestion is None else EXHAUSTED
            config = self._configuration(suggestion)
            if config_id(config) not in self._known:
                self._asked[trial_id] = name
                return config
            # A searcher that starts anew repeats itself: what has been run already, it gets the answer to at once.
            self._num_known += 1
            self._tell(name, self._known.pop(config_id(config)))

    def report(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Tells of a trial's report, where it asked for the trial and the report has a finite metric.

        Raises:
            SweepError: the searcher raised an error, or its own metric is none of the report's.
        """
        heard = self._heard(result)
        if trial_id in self._asked and heard is not None:
            with self._blamed("on_trial_result"):
                self._searcher.on_trial_result(self._asked[trial_id], heard)

    def end(self, trial: PlannedTrial, result: Mapping[str, Any] | None) -> None:
        """Tells how a trial ended.

        Args:
            trial: one that :meth:`suggest` was asked for, or of an earlier process.
            result: its last, or ``None`` where it failed.

        Raises:
            SweepError: the searcher raised an error, or its own metric is none of the result's.
        """
        heard = self._heard(result)
        if trial.trial_id in self._asked:
            self._tell(self._asked.pop(trial.trial_id), heard)
        else:
            added = heard is not None and self._add(trial.config, heard)
            self._known[config_id(trial.config)] = None if added else heard

    def expect(self, trial: PlannedTrial) -> None:
        """Takes note of a trial of an earlier process that runs again, so that it is not suggested once more."""
        self._known[config_id(trial.config)] = None

    def _configuration(self, suggestion: Any) -> Configuration:
        """The space's constants with what was suggested, nested names joined by slashes."""
        if not isinstance(suggestion, dict):
            refuse("searcher", f"{self.name}.suggest must give hyperparameters by name", suggestion, "return a dict")
        with self._blamed("suggest"):
            suggested = {
                name: from_tune(f"searcher, {name}", value, self._domains.get(name))
                for name, value in _flat(suggestion)
            }
        for name in suggested.keys() & RESERVED:
            refuse("searcher", f"{self.name} must not choose the precision or the seed", name, RESERVED[name])
        constants = {name: value for name, value in self._space.items() if not isinstance(value, Domain)}
        missing = sorted(self._space.keys() - constants.keys() - suggested.keys())
        if missing:
            remedy = f"add {', '.join(missing)} to its own space, or take it out of the sweep's"
            refuse("searcher", f"{self.name} must choose all that the space leaves open", sorted(suggested), remedy)
        chosen = {**constants, **suggested}
        return {name: chosen[name] for name in self._space} | chosen

    def _heard(self, result: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """The numbers of a result; ``None`` where the metric is not among them."""
        if result is None:
            return None
        for metric in self._metrics:
            if metric not in result and "val_loss" in result:
                known = ", ".join(name for name in result if name.startswith("val_"))
                refuse("searcher", f"the metric of {self.name} must be one of {known}", metric, "name one of them")
        numbers = {
            name: value for name, value in result.items() if isinstance(value, Real) and math.isfinite(float(value))
        }
        return numbers if all(metric in numbers for metric in self._metrics) else None

    def _tell(self, name: str, heard: dict[str, Any] | None) -> None:
        with self._blamed("on_trial_complete"):
            self._searcher.on_trial_complete(name, result=heard, error=heard is None)

    def _add(self, config: Configuration, heard: Mapping[str, Any]) -> bool:
        """Whether the searcher could be told of a trial that it had not suggested."""
        constants = {name for name, value in self._space.items() if not isinstance(value, Domain)}
        parameters = {name: config[name] for name in self._domains or config.keys() - constants}
        if len(self._metrics) > 1:
            return False
        try:
            self._searcher.add_evaluated_point(parameters, heard[self._metrics[0]])
        except Exception:  # not every searcher can, and each says so in its own way
            return False
        return True

    @contextmanager
    def _blamed(self, method: str) -> Iterator[None]:
        """Says which searcher raised an error, and where."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except SweepError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            raise SweepError(
                f"searcher: {method} of {self.name} must not raise, got {why}; correct it or the space"
            ) from error


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keeps Optuna from announcing each study on the terminal."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _flat(nested: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
