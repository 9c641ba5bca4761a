"""What is confirmed, and where: the search's winners, on each device type that has two precisions to compare."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sweeps.engine.cluster import Resources
from sweeps.engine.device_types import DeviceType, device_types, resources_on
from sweeps.engine.probe import Usable
from sweeps.engine.progress import Progress
from sweeps.engine.remote import await_room
from sweeps.engine.sweep import Sweep
from sweeps.search.plan import PlannedTrial, on_device, plan_confirm


@dataclass(frozen=True)
class Place:
    """Where a configuration is confirmed: a device type, which no pair crosses.

    Args:
        device: its name.
        resources: of every run there.
        routes: precision that can be used there -> its kernel route.
    """

    device: str
    resources: Resources
    routes: Mapping[str, str]


def find_types(resources: Resources, progress: Progress) -> list[DeviceType]:
    """The cluster's device types by now; nodes may have come since the probe, of further types.

    Where all nodes have gone, as from a run that goes on a day later, this waits for the first to come.

    Args:
        resources: of a run that may take place anywhere.
        progress: where it is said what is waited for.
    """
    types = device_types(resources)
    if not types:
        await_room(resources, progress)
        types = device_types(resources)
    return types


def find_places(types: Sequence[DeviceType], usable: Usable, resources: Resources) -> list[Place]:
    """A place for each device type that is there.

    Args:
        types: those of the cluster; fewer than two need not be known by name, and then nothing is kept to anywhere.
        usable: what the probe left on each, at least on one.
        resources: of a run that may take place anywhere.
    """
    if len(types) < 2:
        device = next((each.name for each in types if each.name in usable), next(iter(usable)))
        there = [node for each in types for node in each.has]  # they may have come since the sweep began
        return [Place(device, resources.kept_to(there, {}) if there else resources, usable[device])]
    return [
        Place(each.name, resources_on(each, types, resources), usable[each.name])
        for each in types
        if each.fits and each.name in usable
    ]


def lacks_arms(place: Place, sweep: Sweep) -> bool:
    """Whether a place has no two precisions to compare."""
    return len(place.routes) < 2 or not set(place.routes) & set(sweep.baselines)


def plan_places(
    places: Sequence[Place],
    usable: Usable,
    configs: Sequence[Mapping[str, Any]],
    num_seeds: int,
    sweep_seed: int,
    used_seeds: Collection[int],
) -> list[PlannedTrial]:
    """The runs of confirm at all places: the same blocks at each.

    Args:
        places: where.
        usable: of the run, whose first device type is the one whose runs have no suffix.
        configs, num_seeds, sweep_seed, used_seeds: as :func:`sweeps.search.plan.plan_confirm` takes them.
    """
    first = next(iter(usable))
    return [
        on_device(trial, place.device, place.device == first)
        for place in places
        for trial in plan_confirm(configs, list(place.routes), num_seeds, sweep_seed, used_seeds)
    ]


def in_halves(trials: Sequence[PlannedTrial]) -> tuple[list[PlannedTrial], list[PlannedTrial]]:
    """The trials by block: every second block, and the others, so that both halves hold every configuration."""
    number = {block: index for index, block in enumerate(dict.fromkeys(trial.block_id for trial in trials))}
    halves = [[trial for trial in trials if number[trial.block_id] % 2 == half] for half in (0, 1)]
    return halves[0], halves[1]


def winners(folder: Path, metric: str, mode: Literal["max", "min"], top_k: int) -> list[Mapping[str, Any]]:
    """The union of each precision's best configurations in a search, each once.

    Args:
        folder: of the run.
        metric, mode: what is ranked by.
        top_k: how many of each precision.
    """
    from analysis import load
    from analysis.verdicts import ranking

    ranked = ranking(load(folder).trials, metric, mode)
    configs = {row["config_id"]: row["config"] for row in searched(folder)}
    return [configs[name] for name in dict.fromkeys(name for best in ranked.values() for name in best[:top_k])]


def searched(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's search, as recorded so far."""
    from analysis.journal import read_journal

    return [row for row in read_journal(folder).trials.values() if row["stage"] == "search"]
