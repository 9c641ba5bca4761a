"""Which runs a sweep launches: configurations crossed with precisions, each with its seed and its names."""

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sweeps.search.checks import one_of, refuse
from sweeps.search.configurations import PLANNED, Configuration, config_id, read_points, split_point, stream
from sweeps.search.domains import Scalar
from sweeps.search.unsearched import given_configs

if TYPE_CHECKING:
    from sweeps.engine.sweep import Sweep

FIRST_CONFIRM_SEED = 2**30
"""Derived seeds of the search lie below, those of confirm at or above: a configuration is never confirmed on a seed
that helped to choose it."""


@dataclass(frozen=True)
class PlannedTrial:
    """One run to launch.

    Args:
        index: which configuration of its stage, from 0; the runs of one configuration share it.
        trial_id: unique within the sweep.
        config_id: names the configuration.
        block_id: names the configuration and the seed.
        config: hyperparameters, without precision and seed.
        precision: a name of the ladder.
        seed: seeds initial weights, data order and everything drawn later.
        device: the device type that it is kept to; empty for any.
    """

    index: int
    trial_id: str
    config_id: str
    block_id: str
    config: Configuration
    precision: str
    seed: int
    device: str = ""


def follows_results(sweep: "Sweep") -> bool:
    """Whether configurations follow from results, so that there is no plan: with ``tpe`` or a searcher object."""
    plans = sweep.num_trials == 0 or sweep.points is not None
    return not plans and not (isinstance(sweep.searcher, str) and sweep.searcher in PLANNED)


def preview(sweep: "Sweep", precisions: Sequence[str]) -> tuple[int, PlannedTrial | None]:
    """How many runs the search has at most, and the first of them; without a search, the first that confirm is of.

    Args:
        sweep: what would run.
        precisions: those that it would run in.

    Raises:
        SweepError: the points cannot be read, or the searcher suggests nothing that can be run.
    """
    if sweep.num_trials == 0:
        return 0, search_trial(sweep.seed, 0, given_configs(sweep)[0], precisions[0])
    if not follows_results(sweep):
        trials = plan_search(sweep, precisions)
        return len(trials), next(iter(trials), None)
    from sweeps.search.new_searcher import first_trial  # Ray, which plans do without

    return sweep.num_trials, first_trial(sweep, precisions[0])


def plan_search(sweep: "Sweep", precisions: Sequence[str]) -> list[PlannedTrial]:
    """The runs of the search, all precisions of a configuration in a row.

    Args:
        sweep: with ``points``, exactly those run, each in its own precision or else in all; otherwise the searcher's
            configurations run in every precision until ``num_trials`` runs are planned or a grid is exhausted, so that
            the last configuration may lack precisions. None run where ``num_trials`` is 0.
        precisions: those that remain after the probe.

    Raises:
        SweepError: the points cannot be read, or the searcher's configurations follow from results.
    """
    if not precisions or sweep.num_trials == 0:
        return []
    if sweep.points is not None:
        return [trial for trial in _plan_points(sweep, sweep.points, precisions) if trial.precision in precisions]
    configurations = PLANNED[one_of("searcher", sweep.searcher, PLANNED)](sweep.space, sweep.seed)
    return list(itertools.islice(_cross(configurations, sweep.seed, precisions), sweep.num_trials))


def plan_left_out(sweep: "Sweep", precisions: Sequence[str]) -> list[PlannedTrial]:
    """The points that :func:`plan_search` leaves out because their own precision does not remain.

    Args:
        sweep: the sweep; without ``points`` or a search nothing is left out.
        precisions: those that remain after the probe.

    Raises:
        SweepError: the points cannot be read.
    """
    if sweep.points is None or sweep.num_trials == 0:
        return []
    return [trial for trial in _plan_points(sweep, sweep.points, precisions) if trial.precision not in precisions]


def check_points(sweep: "Sweep") -> None:
    """Refuses points in other precisions than the sweep's.

    Raises:
        SweepError: there is one, or the points cannot be read.
    """
    for trial in plan_left_out(sweep, sweep.precisions):
        refuse("points", f"must stay within the precisions {', '.join(sweep.precisions)}", trial.precision, "add it")


def plan_confirm(
    configs: Sequence[Mapping[str, Scalar]],
    precisions: Sequence[str],
    num_seeds: int,
    sweep_seed: int,
    used_seeds: Collection[int] = (),
) -> list[PlannedTrial]:
    """The runs of confirm, block by block: every configuration with every seed in every precision.

    The seeds are the same for all configurations, so that blocks of different configurations pair too, and more seeds
    extend fewer.

    Args:
        configs: configurations to confirm; one that occurs twice counts once.
        precisions: the arms.
        num_seeds: blocks per configuration, at least 1.
        sweep_seed: the sweep's seed.
        used_seeds: seeds to avoid, e.g. those that points brought along.
    """
    distinct = {config_id(config): dict(config) for config in configs}
    seeds = confirm_seeds(sweep_seed, num_seeds, used_seeds)
    return [
        _planned(f"confirm-{name}-{seed}-{precision}", index, config, precision, seed)
        for index, (name, config) in enumerate(distinct.items())
        for seed in seeds
        for precision in precisions
    ]


def on_device(trial: PlannedTrial, device: str, is_first: bool) -> PlannedTrial:
    """The trial, kept to a device type, and named after it where the type is not the first of the run."""
    name = trial.trial_id if is_first else trial.trial_id + device_suffix(device)
    return replace(trial, trial_id=name, device=device)


def device_suffix(device: str) -> str:
    """What tells the runs on a device type from those on others by their names; fit for files, and for URLs."""
    return "-" + re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def with_config(trial: PlannedTrial, config: Configuration) -> PlannedTrial:
    """The trial with other hyperparameters; its index, id, precision and seed remain."""
    return _planned(trial.trial_id, trial.index, config, trial.precision, trial.seed)


def search_trial(sweep_seed: int, index: int, config: Configuration, precision: str) -> PlannedTrial:
    """Configuration ``index`` of the search in one precision."""
    return _planned(search_id(index, precision), index, config, precision, search_seed(sweep_seed, index))


def recorded_trial(row: Mapping[str, Any]) -> PlannedTrial:
    """The run of the search whose start a row of the journal tells."""
    index = int(row["trial_id"].split("-")[1])
    return _planned(row["trial_id"], index, dict(row["config"]), row["precision"], row["seed"])


def search_id(index: int, precision: str) -> str:
    """The name of configuration ``index`` of the search in one precision."""
    return f"search-{index:04d}-{precision}"


def search_seed(sweep_seed: int, index: int) -> int:
    """The seed of configuration ``index``, in [0, 2**30): the same in every precision."""
    return stream("search seed", sweep_seed, index) % FIRST_CONFIRM_SEED


def confirm_seeds(sweep_seed: int, num_seeds: int, used_seeds: Collection[int] = ()) -> list[int]:
    """Distinct seeds, all at least 2**30 and none of them used before."""
    first = FIRST_CONFIRM_SEED + stream("confirm seeds", sweep_seed) % (FIRST_CONFIRM_SEED // 2)
    unused = (seed for seed in itertools.count(first) if seed not in used_seeds)
    return list(itertools.islice(unused, num_seeds))


def _cross(configs: Iterator[Configuration], sweep_seed: int, precisions: Sequence[str]) -> Iterator[PlannedTrial]:
    for index, config in enumerate(configs):
        for precision in precisions:
            yield search_trial(sweep_seed, index, config, precision)


def _plan_points(sweep: "Sweep", path: str, precisions: Sequence[str]) -> Iterator[PlannedTrial]:
    first_index: dict[str, int] = {}
    for index, point in enumerate(read_points(path)):
        config, precision, seed = split_point(point)
        if seed is None:
            # Lines that differ in precision alone are one block, as they would be in a sampled search.
            seed = search_seed(sweep.seed, first_index.setdefault(config_id(config), index))
        for each in precisions if precision is None else (precision,):
            yield _planned(search_id(index, each), index, config, each, seed)


def _planned(trial_id: str, index: int, config: Configuration, precision: str, seed: int) -> PlannedTrial:
    name = config_id(config)
    return PlannedTrial(index, trial_id, name, f"{name}-{seed}", config, precision, seed)
