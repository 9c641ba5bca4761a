"""The probe: what each precision is worth on this cluster and task, before anything is spent."""

from collections.abc import Iterator, Sequence
from typing import Any

from sweeps.engine.cluster import Resources
from sweeps.engine.recorder import Recorder
from sweeps.engine.remote import cancelled_on_error, streaming
from sweeps.engine.rows import probed
from trainables.ladder import BASELINES, LADDER
from trainables.loading import TaskError, describe
from trainables.spec import TrialSpec


def ladder_order(precisions: Sequence[str]) -> list[str]:
    """Baselines first, since what others cost is judged by them; then the ladder's order."""
    return sorted(precisions, key=lambda name: (name not in BASELINES, list(LADDER).index(name)))


def run_probe(
    spec: TrialSpec, precisions: Sequence[str], resources: Resources, recorder: Recorder
) -> list[dict[str, Any]]:
    """Probes precisions on a worker of the cluster and records a row for each.

    Args:
        spec: a trial on the real task.
        precisions: names of the ladder.
        resources: of a trial.
        recorder: takes the rows.

    Returns:
        a :class:`trainables.probe.ProbeResult` as a dict for each precision, in :func:`ladder_order`.

    Raises:
        TaskError: the task cannot be built.
    """
    results = []
    for result in _probe_on_worker(spec, ladder_order(precisions), resources):
        recorder.record("trial", probed(result, resources.num_cpus, resources.num_gpus))
        results.append(result)
    return results


def _probe_on_worker(spec: TrialSpec, precisions: list[str], resources: Resources) -> Iterator[dict[str, Any]]:
    """A precision that takes the worker's process down is left out; the others go on in a new one."""
    import ray

    from sweeps.engine.failures import failure

    start = streaming(_probe, **resources.per_trial)
    left = list(precisions)
    while left:
        try:
            stream = start(spec.to_dict(), left)
            with cancelled_on_error([stream]):
                for item in stream:
                    result = ray.get(item)
                    left.remove(result["precision"])
                    yield result
            return
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, TaskError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            status, reason = failure(error)
            yield {"precision": left.pop(0), "status": status, "status_reason": reason, "metrics": ()}


def _probe(spec: dict[str, Any], precisions: list[str]) -> Iterator[dict[str, Any]]:
    import dataclasses

    from trainables.memory import settle_process
    from trainables.probe import probe

    settle_process()
    try:
        for result in probe(TrialSpec.from_dict(spec), precisions):
            yield dataclasses.asdict(result)
    except TaskError as error:
        raise TaskError(str(error)) from None  # what it came from need not survive the way to the driver
    except KeyboardInterrupt as error:  # to Ray it would mean that the driver had cancelled the probe
        raise TaskError(f"task: must run to its end, got {describe(error)}; correct the task") from None
