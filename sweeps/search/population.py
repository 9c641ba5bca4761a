"""Ray's population based training on the trials of a sweep."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining

from sweeps.search.asha import TIME
from sweeps.search.domains import Choice, Domain
from sweeps.search.mutation import nearest
from sweeps.search.shield import Shielded, TrialsOf

OWN = ("trial_id", "precision", "seed")
"""What a trial keeps of its own when it goes on from another's weights."""

DONOR = "spec.donor"
"""Key of a trial's configuration, beside the hyperparameters: the trial whose weights it took last."""


class Population(PopulationBasedTraining):
    """Ray's PBT, with hyperparameters that stay within their domains and choices that derive from a seed.

    Args:
        domains: the hyperparameters that change, with their domains.
        metric, mode: what is ranked by.
        interval: reports from one look at the population to the next.
        seed: what its choices derive from.
    """

    def __init__(self, domains: Mapping[str, Domain], metric: str, mode: str, interval: int, seed: int) -> None:
        super().__init__(
            time_attr=TIME,
            metric=metric,
            mode=mode,
            perturbation_interval=interval,
            hyperparam_mutations={name: _values(domain) for name, domain in domains.items()},
            custom_explore_fn=self._within,
            log_config=False,
        )
        self._domains = domains
        self._random_state = random.Random(seed).getstate()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """What PBT decides on a report."""
        with self._own_randomness():
            return str(super().on_trial_result(tune_controller, trial, result))

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Ray draws from Python's global generator: in here that is the population's own."""
        others = random.getstate()
        random.setstate(self._random_state)
        try:
            yield
        finally:
            self._random_state = random.getstate()
            random.setstate(others)

    def _within(self, config: dict[str, Any]) -> dict[str, Any]:
        return config | {name: nearest(domain, config[name]) for name, domain in self._domains.items()}


class ShieldedPopulation(Shielded):
    """Ray's PBT on trials whose hyperparameters lie in ``config["spec"]["config"]``.

    PBT changes what lies at the top of a trial's configuration and copies the rest from the donor, its name included.
    Here it finds the hyperparameters at the top, and each trial keeps what is :data:`OWN` and notes its :data:`DONOR`.
    """

    def __init__(self, scheduler: PopulationBasedTraining, metric: str, mode: str) -> None:
        super().__init__(scheduler, metric, mode)
        self._own: dict[Trial, dict[str, Any]] = {}

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A trial joins the population."""
        spec = trial.config["spec"]
        self._own[trial] = {name: spec[name] for name in OWN}
        trial.set_config({**spec["config"], **trial.config})
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> str:
        """What PBT decides on a report; any of the trials may have taken over another's weights by it."""
        decision = super().on_trial_result(tune_controller, trial, result)
        for each in self.living:
            if each.config["spec"]["trial_id"] != self._own[each]["trial_id"]:
                each.set_config(_renamed(each.config, self._own[each]))
        return decision

    def view(self, tune_controller: Any) -> Any:
        """The controller without its searcher: PBT refuses to work beside one, even one that only hands out a plan."""
        return TrialsOf(tune_controller, self.living, search_alg=None)


def _values(domain: Domain) -> Any:
    """A domain as PBT takes it: a list of choices, or a function that draws a value."""
    return list(domain.values) if isinstance(domain, Choice) else lambda: domain.draw(random.random())


def _renamed(config: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration copied from a donor, with the changed hyperparameters in place and the trial's own name."""
    spec = config["spec"]
    hyperparameters = {name: value if name == "spec" else config[name] for name, value in spec["config"].items()}
    return {**config, DONOR: spec["trial_id"], "spec": {**spec, "config": hyperparameters, **own}}
