"""Generators that run on a worker of the cluster and stream what they yield."""

from collections.abc import Callable, Iterator
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
