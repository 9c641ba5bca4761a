"""The probe: what each precision is worth on this cluster and task, before anything is spent."""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from sweeps.engine.cluster import Resources
from sweeps.engine.idle import Idle
from sweeps.engine.recorder import Recorder
from sweeps.engine.rows import probed
from sweeps.engine.sweep import Sweep
from sweeps.search.plan import PlannedTrial, device_suffix
from trainables.ladder import BASELINES, LADDER
from trainables.loading import TaskError, TaskSource
from trainables.routes import DEFAULT
from trainables.spec import TrialSpec
from trainables.text import one_line

if TYPE_CHECKING:
    from sweeps.engine.device_types import DeviceType
    from sweeps.engine.workers import Workers

Usable = dict[str, dict[str, str]]
"""Device type -> precision that the probe left there -> its kernel route; in the order of their probes."""


def ladder_order(precisions: Sequence[str]) -> list[str]:
    """Baselines first, since what others cost is judged by them; then the ladder's order."""
    return sorted(precisions, key=lambda name: (name not in BASELINES, list(LADDER).index(name)))


def usable_anywhere(usable: Usable) -> list[str]:
    """The precisions that some device type can use, in :func:`ladder_order`."""
    return ladder_order(list({name for routes in usable.values() for name in routes}))


def by_precision(usable: Usable) -> dict[str, dict[str, str]]:
    """The same the other way about: precision -> device type that can use it -> its kernel route."""
    return {
        name: {device: routes[name] for device, routes in usable.items() if name in routes}
        for name in usable_anywhere(usable)
    }


def probe_spec(sweep: Sweep, source: TaskSource, first: PlannedTrial | None, resources: Resources) -> TrialSpec:
    """The trial that the probe tries every precision on: the first configuration."""
    config, seed = (first.config, first.seed) if first else ({}, sweep.seed)
    where = (resources.num_cpus, resources.num_gpus, resources.num_workers)
    return TrialSpec("probe", source, config, "", seed, sweep.budget, *where, compile=sweep.compile, fsdp=sweep.fsdp)


def unprobed(types: Sequence["DeviceType"], usable: Usable) -> "Sequence[DeviceType | None]":
    """The device types that have still to be probed; ``None`` for whichever comes first where none is there yet."""
    return [each for each in types if each.fits and each.name not in usable] if types or usable else [None]


def probe_types(
    spec: TrialSpec,
    sweep: Sweep,
    types: Sequence["DeviceType"],
    resources: Resources,
    usable: Usable,
    workers: "Workers | None",
    recorder: Recorder,
) -> list[dict[str, Any]]:
    """Probes all precisions on each device type that has not been probed, in a worker there.

    Args:
        spec: a trial on the real task.
        sweep: its precisions, and their route.
        types: those of the cluster; none where its nodes have still to come.
        resources: of a trial.
        usable: what is known already; takes what is found.
        workers: of the search, one of which probes where all of them are of one type; ``None`` has others start.
        recorder: takes the rows, and says what is found.

    Returns:
        a :class:`trainables.probe.ProbeResult` as a dict for each precision and type probed.

    Raises:
        TaskError: the task cannot be built.
        Unfinished: no worker comes to its start.
    """
    names = ladder_order(sweep.precisions)
    places = unprobed(types, usable)
    if not places:
        return []
    what = f"a few steps in {', '.join(names)}{f' on {len(places)} device types' if len(places) > 1 else ''}"
    recorder.progress.stage("probe", len(names) * len(places), what)
    found: list[dict[str, Any]] = []
    with ExitStack() as stack:
        for place, there in zip(places, _workers_on(places, types, resources, workers, stack), strict=True):
            known = place.name if place is not None else ""
            # The first type's rows have the shorter names, in a run that goes on elsewhere, too.
            suffix = device_suffix(known) if usable else ""
            results = run_probe(spec, names, sweep.fixed_route, resources, there, recorder, known, suffix)
            device = next((result["device"] for result in results if result["device"]), known)
            completed = [result for result in results if result["status"] == "completed"]
            usable[device] = {result["precision"]: result["route"] for result in completed}
            usable.setdefault(known or device, usable[device])  # a part of a GPU is more to PyTorch than to the driver
            _say(results, recorder)
            found += results
    return found


def _workers_on(
    places: "Sequence[DeviceType | None]",
    types: Sequence["DeviceType"],
    resources: Resources,
    workers: "Workers | None",
    stack: ExitStack,
) -> list["Workers"]:
    """Workers of which one probes, for each place; all of them are starting when the first is used."""
    from sweeps.engine.device_types import resources_on
    from sweeps.engine.workers import Workers
    from trainables.adapters.ray_tune import TuneTrial

    if workers is not None and len(types) < 2:
        return [workers]
    on = [resources if place is None else resources_on(place, types, resources) for place in places]
    own = [stack.enter_context(Workers(TuneTrial, each)) for each in on]
    for each in own:
        each.start(1)
    return own


def _say(results: Sequence[Mapping[str, Any]], recorder: Recorder) -> None:
    for remark in dict.fromkeys(remark for result in results for remark in result.get("remarks", ())):
        recorder.progress.say(f"  {one_line(remark)}")
    for result in results:
        recorder.progress.say("  " + describe_probe(result))


def describe_probe(result: Mapping[str, Any]) -> str:
    """A probe's result in a line."""
    precision, reason = result["precision"], result["status_reason"]
    if result["status"] != "completed":
        return f"{precision:<15}left out, {result['status'].replace('_', ' ')}: {reason}"
    by = f" by {result['route']}" if result["route"] != DEFAULT else ""
    by += f" ({result['default_ms']:.3g} by default)" if by and result["default_ms"] else ""
    served = dict.fromkeys(kernel.split()[0] for kernel in (result["kernel"] or "").split(", ") if kernel)
    by += f" in {' and '.join(served)}" if served else ""
    return f"{precision:<15}{result['step_ms']:.3g} ms a step{by} on {result['device']}"


def run_probe(
    spec: TrialSpec,
    precisions: Sequence[str],
    route: str | None,
    resources: Resources,
    workers: "Workers",
    recorder: Recorder,
    device: str = "",
    suffix: str = "",
) -> list[dict[str, Any]]:
    """Probes precisions on a worker of the cluster and records a row for each.

    Args:
        spec: a trial on the real task.
        precisions: names of the ladder.
        route: the kernel route to take; ``None`` finds the fastest in each precision.
        resources: of a trial.
        workers: one of which probes.
        recorder: takes the rows.
        device: the device type as far as it is known before, for a precision whose worker dies.
        suffix: of the rows' names.

    Returns:
        a :class:`trainables.probe.ProbeResult` as a dict for each precision, in :func:`ladder_order`.

    Raises:
        TaskError: the task cannot be built.
        Unfinished: no worker comes to its start.
    """
    results = []
    new_idle = functools.partial(Idle, recorder.progress, resources.per_worker, resources.num_workers)
    for result in _probe_on_worker(spec, ladder_order(precisions), route, workers, new_idle):
        result.setdefault("device", device or None)
        held = (result.get("device"), result.get("node_ids", ()), result.get("held_s"))
        cost_usd = recorder.meter.charge(resources.per_worker, *held)
        where = (resources.num_cpus, resources.num_gpus, resources.num_workers)
        recorder.record("trial", probed(result, *where, cost_usd, suffix=suffix))
        recorder.keep_costs()
        results.append(result)
    return results


def _probe_on_worker(
    spec: TrialSpec, precisions: list[str], route: str | None, workers: "Workers", new_idle: Callable[[], Idle]
) -> Iterator[dict[str, Any]]:
    """A precision that takes the process down again in another worker is left out; the others go on."""
    import ray

    from sweeps.engine.failures import Losses, died, failure

    left = list(precisions)
    losses: defaultdict[str, Losses] = defaultdict(Losses)
    while left:
        try:
            first = workers.first(new_idle().look)
            for item in first.probe.options(num_returns="streaming").remote(spec.to_dict(), left, route):
                result = ray.get(item)
                left.remove(result["precision"])
                yield result
            return
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, TaskError):
                raise error.cause from None
            if not died(error):
                raise
            lost: ray.exceptions.RayError = error
        except ray.exceptions.RayError as error:
            lost = error
        if left:
            workers.replace_first()
            if not losses[left[0]].goes_on(lost):
                status, reason = failure(lost)
                yield {"precision": left.pop(0), "status": status, "status_reason": reason, "metrics": ()}
