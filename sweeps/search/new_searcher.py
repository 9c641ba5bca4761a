"""Ray Tune searchers that know nothing yet: what a sweep names, or a copy of the object that it has."""

import copy
import importlib.util
import warnings
from typing import TYPE_CHECKING

from ray.tune.search import Searcher

from sweeps.search.checks import refuse
from sweeps.search.configurations import SEARCHERS, stream
from sweeps.search.plan import PlannedTrial, search_id, search_trial
from sweeps.search.suggester import Suggester

if TYPE_CHECKING:
    from sweeps.engine.sweep import Sweep

MOST_STARTUP, FEWEST_STARTUP = 10, 3
"""Trials that ``tpe`` chooses at random in each precision before it follows results: a quarter, within these bounds.

Optuna's own 10 would leave nothing to follow where 32 trials are shared by three precisions.
"""


def first_trial(sweep: "Sweep", precision: str) -> PlannedTrial:
    """What the sweep's searcher suggests first, before there is any result.

    Raises:
        SweepError: the searcher is none, lacks a package or raised an error, or what it suggests cannot be run.
    """
    suggester = Suggester(new_searcher(sweep), sweep.space, sweep.metric or "val_loss", sweep.mode or "min")
    config = suggester.suggest(search_id(0, precision))
    if not isinstance(config, dict):
        remedy = "check its own space and limits"
        refuse("searcher", f"{suggester.name} must suggest a configuration when first asked", config, remedy)
    trial = search_trial(sweep.seed, 0, config, precision)
    suggester.end(trial, None)  # the copy may share a study on disk, where the trial would wait for ever
    return trial


def new_searcher(sweep: "Sweep", num_trials: int = 1) -> Searcher:
    """A searcher of the sweep's kind that knows nothing yet.

    Args:
        sweep: names the searcher, or has one of which this is a copy.
        num_trials: that it is going to choose.

    Raises:
        SweepError: the searcher is none or cannot be copied, or a package is missing.
    """
    if sweep.searcher == "tpe":
        return _tpe(sweep.seed, num_trials)
    if not isinstance(sweep.searcher, Searcher):
        remedy = f"use one of {', '.join(SEARCHERS)}, or an object of ray.tune.search"
        refuse("searcher", "must be a name or a Ray Tune Searcher", sweep.searcher, remedy)
    try:
        return copy.deepcopy(sweep.searcher)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        remedy = "give it no open files, threads or connections"
        refuse(
            "searcher", f"must be an object that can be copied, one for each precision ({why})", sweep.searcher, remedy
        )


def _tpe(seed: int, num_trials: int) -> Searcher:
    """Optuna's TPE: Bergstra et al. 2011, multivariate as in Falkner et al. 2018 (arXiv 1807.01774)."""
    if importlib.util.find_spec("optuna") is None:
        refuse("searcher", "tpe needs optuna, which is not installed", "tpe", 'run pip install "ampsweep[tpe]"')
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna 4 calls experimental what are the defaults of Optuna 5
        sampler = optuna.samplers.TPESampler(
            seed=stream("tpe", seed) % 2**32,
            n_startup_trials=min(MOST_STARTUP, max(FEWEST_STARTUP, num_trials // 4)),
            multivariate=True,
            constant_liar=True,  # trials that run at the same time keep away from each other
        )
    return OptunaSearch(sampler=sampler)
