"""Generators that run on a worker of the cluster and stream what they yield."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def streaming(function: Callable[..., Iterator[Any]], **options: Any) -> Callable[..., Any]:
    """A generator function as a Ray task, never retried: a trial that failed must be seen to have failed.

    Args:
        function: yields plain data.
        options: of the task, such as ``num_cpus``.

    Returns:
        starts the task and gives an iterator of object references.
    """
    import ray

    remote: Any = ray.remote  # its overloads do not describe options that are only known when it runs
    task = remote(num_returns="streaming", max_retries=0, **options)(function)
    return task.remote  # type: ignore[no-any-return]


@contextmanager
def cancelled_on_error(streams: Iterable[Any]) -> Iterator[None]:
    """Ends running tasks where the driver leaves early: on a Ray that outlives it, they would go on to their end.

    Args:
        streams: what :func:`streaming`'s functions gave; those still in it at the time are cancelled.
    """
    import ray

    try:
        yield
    except BaseException:
        for stream in list(streams):
            ray.cancel(stream, force=True)
        raise
