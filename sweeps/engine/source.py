"""Where a sweep's task comes from: found by its name, or pickled into the run's folder where it is a function."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sweeps.engine.folders import Home
from sweeps.engine.journal import refuse_storage
from sweeps.engine.mirror import refuse_store
from trainables.loading import TaskSource, find_task
from trainables.spec import PICKLE_FILE


@dataclass(frozen=True)
class FoundTask:
    """A task that the driver has found, before the run has a folder.

    Args:
        source: where it comes from.
        content: the pickled function, where it was given as one.
    """

    source: TaskSource
    content: bytes | None = None

    def kept_in(self, home: Home) -> TaskSource:
        """The task as workers load it; a function lies where the results do, and a run that goes on keeps its own.

        Raises:
            SweepError: they cannot be written.
        """
        if self.content is None:
            return self.source
        from trainables.pickled import write_task

        file = home.folder / PICKLE_FILE
        if not file.exists():
            try:
                write_task(self.content, home.folder)
            except OSError as error:
                refuse_storage(home.folder, error)
        if home.url is not None:
            try:
                (home.url / PICKLE_FILE).write(io.BytesIO(file.read_bytes()))  # before any worker wants it
            except OSError as error:
                refuse_store(home.url, error)
        return replace(self.source, pickled=home.shared(PICKLE_FILE))


def find_source(task: str | Callable[[dict[str, Any]], Any]) -> FoundTask:
    """Finds a sweep's task without running it.

    Raises:
        TaskError: there is no such task, or what belongs to the function cannot be pickled.
    """
    if isinstance(task, str):
        return FoundTask(find_task(task))
    from trainables.pickled import pickle_task  # cloudpickle, which tasks with names do without

    return FoundTask(*pickle_task(task))
