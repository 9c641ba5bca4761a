"""The probe: what each precision is worth on this cluster and task, before anything is spent."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sweeps.engine.cluster import Resources
from sweeps.engine.recorder import Recorder
from sweeps.engine.rows import probed
from trainables.ladder import BASELINES, LADDER
from trainables.loading import TaskError
from trainables.spec import TrialSpec

if TYPE_CHECKING:
    from sweeps.engine.workers import Workers


def ladder_order(precisions: Sequence[str]) -> list[str]:
    """Baselines first, since what others cost is judged by them; then the ladder's order."""
    return sorted(precisions, key=lambda name: (name not in BASELINES, list(LADDER).index(name)))


def run_probe(
    spec: TrialSpec,
    precisions: Sequence[str],
    route: str | None,
    resources: Resources,
    workers: "Workers",
    recorder: Recorder,
) -> list[dict[str, Any]]:
    """Probes precisions on a worker of the cluster and records a row for each.

    Args:
        spec: a trial on the real task.
        precisions: names of the ladder.
        route: the kernel route to take; ``None`` finds the fastest in each precision.
        resources: of a trial.
        workers: one of which probes.
        recorder: takes the rows.

    Returns:
        a :class:`trainables.probe.ProbeResult` as a dict for each precision, in :func:`ladder_order`.

    Raises:
        TaskError: the task cannot be built.
        Unfinished: no worker comes to its start.
    """
    results = []
    for result in _probe_on_worker(spec, ladder_order(precisions), route, workers):
        place = (result.get("device"), result.get("node_ids", ()), result.get("held_s"))
        cost_usd = recorder.meter.charge(resources.per_worker, *place)
        where = (resources.num_cpus, resources.num_gpus, resources.num_workers)
        recorder.record("trial", probed(result, *where, cost_usd))
        results.append(result)
    return results


def _probe_on_worker(
    spec: TrialSpec, precisions: list[str], route: str | None, workers: "Workers"
) -> Iterator[dict[str, Any]]:
    """A precision that takes the process down again in another worker is left out; the others go on."""
    import ray

    from sweeps.engine.failures import MAX_FAILURES, died, failure

    left = list(precisions)
    failures: Counter[str] = Counter()
    while left:
        try:
            for item in workers.first().probe.options(num_returns="streaming").remote(spec.to_dict(), left, route):
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
            failures[left[0]] += 1
            if failures[left[0]] > MAX_FAILURES:
                status, reason = failure(lost)
                yield {"precision": left.pop(0), "status": status, "status_reason": reason, "metrics": ()}
