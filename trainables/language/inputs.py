"""What of a configuration can be refused before anything starts, by whoever sees its files. Torch-free."""

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from trainables.language.documents import read_documents
from trainables.language.files import Column, refuse, shortened
from trainables.language.settings import SMALL_GPT, columns
from trainables.language.texts import is_file, read_labelled, sorted_labels

MOST_BYTES = 64 << 20
"""Files up to this size are read before a sweep starts; larger ones are looked at by the workers alone."""

WEIGHTS = ("*.safetensors", "*.bin")
"""Weights in a model's folder."""

_NO_TOKENIZER = ("config.json", "generation_config.json", "*.index.json", *WEIGHTS, "*.md")
"""What a model's folder may hold without holding a tokenizer."""


def check_model(config: Mapping[str, Any]) -> None:
    """Refuses a model's folder that lacks something for certain; what cannot be told from its files is left to workers.

    Args:
        config: the hyperparameters that have a single value.

    Raises:
        TaskError: one line that says what is missing.
    """
    place = config.get("model")
    if not isinstance(place, str) or not (Path(place).is_dir() or place.startswith((".", "/", "~"))):
        return
    folder = Path(place)
    if not folder.is_dir():
        refuse("model", "must be an existing folder or a name on the hub", repr(place), "check the path")
    names = [file.name for file in folder.iterdir()]
    if "config.json" not in names:
        refuse("model", "the folder must hold config.json and weights", repr(place), "save it by save_pretrained")
    if not any(_fits(name, WEIGHTS) for name in names):
        remedy = "save or download the whole model"
        refuse("model", f"the folder must hold weights ({' or '.join(WEIGHTS)})", repr(place), remedy)
    if all(_fits(name, _NO_TOKENIZER) for name in names if not (folder / name).is_dir()):
        refuse("model", "the folder must hold a tokenizer", repr(place), "save it there by tokenizer.save_pretrained")


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def check_labels(place: str, known: Sequence[str], labels: Sequence[str], lines: Sequence[int]) -> None:
    """Refuses labels that training does not know.

    Args:
        place: the validation file.
        known: labels of the training file.
        labels, lines: of the validation file, and where each stands.

    Raises:
        TaskError: names the first one and its line.
    """
    unknown = set(labels) - set(known)
    if unknown:
        line, label = next((line, label) for label, line in zip(labels, lines, strict=True) if label in unknown)
        shown = shortened(", ".join(known))
        condition = f"line {line} of {place} must have a label that training has ({shown})"
        refuse("val_file", condition, shortened(repr(label)), "correct it, or add such rows to the training file")


def check_labelled_inputs(config: Mapping[str, Any]) -> None:
    """Refuses a model, and training and validation files of texts with labels, that cannot be used.

    Args:
        config: the hyperparameters that have a single value.

    Raises:
        TaskError: one line that says what is wrong, and where.
    """
    check_model(config)
    text, label = columns(config)
    known: list[str] = []
    for field in ("train_file", "val_file"):
        place = config.get(field)
        if not isinstance(place, str) or not _is_small(place):
            continue
        found = read_labelled(place, field, text, label)
        text, label = found.text_column, found.label_column
        if field == "train_file":
            known = check_classes(sorted_labels(found.labels))
            check_first_row(place, found.label_column, found.labels[0], Counter(found.labels))
        elif known:
            check_labels(place, known, found.labels, found.table.lines)


def check_classes(labels: Sequence[str]) -> list[str]:
    """The training file's labels, where there are several.

    Raises:
        TaskError: there is one alone.
    """
    if len(labels) < 2:
        refuse("train_file", "must hold two labels at least", shortened(", ".join(labels)), "check label_column")
    return list(labels)


def check_first_row(place: str, label_column: Column | None, label: str, counts: Mapping[str, int]) -> None:
    """Refuses a training file whose first row is rather a header, with names that are not usual.

    Args:
        place: the file.
        label_column: where labels stand in it; a number where no header was found.
        label: of the first row.
        counts: how many rows have each label.

    Raises:
        TaskError: the first row alone has its label, while each other label has several rows.
    """
    others = [count for name, count in counts.items() if name != label]
    if isinstance(label_column, int) and counts[label] == 1 and min(others) > 1:
        condition = f"the first row of {place} must be an example, or a header that names the columns asked for"
        remedy = "name them by text_column and label_column, or leave this row out"
        refuse("train_file", condition, f"{shortened(repr(label))} for a label, which no other row has", remedy)


def check_text_inputs(config: Mapping[str, Any]) -> None:
    """As :func:`check_labelled_inputs`, for files of texts without labels."""
    check_model(config)
    check_sizes(config)
    for field in ("train_file", "val_file"):
        place = config.get(field)
        if isinstance(place, str) and _is_small(place):
            read_documents(place, field, columns(config)[0])


def check_sizes(config: Mapping[str, Any]) -> None:
    """Refuses sizes of the small GPT along with a pretrained model, which has its own.

    Raises:
        TaskError: names the first one.
    """
    for name in SMALL_GPT:
        if config.get("model") is not None and config.get(name) is not None:
            refuse(name, "must be left out where a model is given, which has its own", config[name], "leave it out")


def _is_small(place: str) -> bool:
    """Whether a place is a file to be read now; one that is missing is, to be refused."""
    path = Path(place)
    return is_file(place) and not (path.is_file() and path.stat().st_size > MOST_BYTES)
