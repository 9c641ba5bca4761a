"""Data sets of the Hugging Face hub, through the optional library ``datasets``."""

import importlib
from typing import Any

from trainables.language.files import Table, refuse
from trainables.loading import describe


def read_hub(name: str, field: str) -> Table:
    """Reads a split of a data set.

    Args:
        name: ``NAME[,CONFIGURATION][:SPLIT]``, such as ``nyu-mll/glue,sst2:validation``.
        field: the hyperparameter that named it.

    Raises:
        TaskError: there is no such data set or split, the hub cannot be reached, or ``datasets`` is not installed.
    """
    content = load_hub(name, field)
    columns = tuple(content[each] for each in content.column_names)
    return Table(field, name, tuple(content.column_names), columns, True, range(1, len(content) + 1))


SPLITS = {"train_file": "train", "val_file": "validation"}
"""The split that a hyperparameter means where the name says none."""


def load_hub(name: str, field: str) -> Any:
    """The split as a ``datasets.Dataset``; arguments and errors as of :func:`read_hub`."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        condition = "must be an existing file, or a data set of the hub, which needs the library datasets"
        refuse(field, condition, f"{name!r} and {error}", "check the path, or pip install datasets")
    whole, _, split = name.partition(":")
    split = split or SPLITS.get(field, "train")
    dataset, _, configuration = whole.partition(",")
    try:
        return datasets.load_dataset(dataset, configuration or None, split=split)
    except Exception as error:  # each kind of failure of the hub has its own
        condition = f"must be an existing file, or a data set of the hub that can be reached (split {split!r})"
        refuse(field, condition, f"{describe(error)} for {name!r}", "check the name and the connection")
