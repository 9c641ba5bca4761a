"""The field ``task`` of a sweep: the name of a task's function, or the function itself."""

import inspect
from typing import Any

from sweeps.search.checks import refuse, text
from trainables.loading import is_lightning_module
from trainables.pickled import name_of


def check_task(task: Any) -> None:
    """Refuses what neither names a function nor is one that takes a configuration.

    Raises:
        SweepError: it is something else.
    """
    remedy = "write module:function or path/to/file.py:function"
    if callable(task):
        if not is_lightning_module(task):  # which is called with hyperparameters by name
            _check_signature(task)
        return
    source, _, function = text("task", task, remedy).rpartition(":")
    if not source or not function.isidentifier():
        refuse("task", "must name a function of a module or file", task, remedy)


def _check_signature(function: Any) -> None:
    try:
        inspect.signature(function).bind({})
    except TypeError as error:
        condition = f"must be a function of a configuration alone ({error})"
        refuse("task", condition, task_name(function), "take one argument")
    except ValueError:  # some built-in functions do not tell
        return


def task_name(task: Any) -> str:
    """The task as ``sweep.json`` and errors name it."""
    return task if isinstance(task, str) else name_of(task)
