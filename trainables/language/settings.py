"""The hyperparameters of tasks on text: what they mean, and which values are valid. Torch-free."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainables.language.files import Column, refuse
from trainables.settings import Setting, is_number, is_text, is_whole


def _is_column(value: Any) -> bool:
    return is_text(value) or is_whole(value, 0)


MODEL: Mapping[str, Setting] = {
    "model": Setting("the pretrained model: a local folder, or a name on the hub", "PLACE", "text", is_text, True),
}

FILES: Mapping[str, Setting] = {
    "train_file": Setting(
        "training data: a CSV, TSV, JSONL, Parquet or text file, or NAME[,CONFIGURATION][:SPLIT] of the hub",
        "FILE",
        "text",
        is_text,
        True,
    ),
    "val_file": Setting("validation data, as of --train-file", "FILE", "text", is_text, True),
    "text_column": Setting(
        "where texts stand: a name, or a number from 0; else found where there is no doubt",
        "COLUMN",
        "a name or a number from 0",
        _is_column,
    ),
}

LABELS: Mapping[str, Setting] = {
    "label_column": Setting(
        "where labels stand, as of --text-column", "COLUMN", "a name or a number from 0", _is_column
    ),
}

ADAPTATION: Mapping[str, Setting] = {
    "max_length": Setting(
        "tokens of a text at most; else what the model takes",
        "N",
        "a whole number of at least 1",
        lambda value: is_whole(value, 1),
    ),
    "lora_rank": Setting(
        "rank of the low-rank updates that are trained in place of the weights (LoRA); 0 trains the weights",
        "N",
        "a whole number of at least 0",
        lambda value: is_whole(value, 0),
    ),
    "lora_alpha": Setting(
        "over the rank, what those updates are multiplied with; else twice the rank",
        "X",
        "a number above 0",
        lambda value: is_number(value) and value > 0,
    ),
    "lora_dropout": Setting(
        "dropout before those updates (default: 0)",
        "X",
        "a number from 0 to below 1",
        lambda value: is_number(value) and 0 <= value < 1,
    ),
    "gradient_checkpointing": Setting(
        "compute layers again in the backward pass, which saves memory and costs time",
        "true|false",
        "true or false",
        lambda value: isinstance(value, bool),
    ),
}

TEXT_CLASSIFICATION: Mapping[str, Setting] = {**MODEL, **FILES, **LABELS, **ADAPTATION}
"""Hyperparameters of :func:`trainables.tasks.text_classification.build`."""


_GENERATION_MODEL: Mapping[str, Setting] = {
    "model": Setting(
        "the pretrained model: a local folder, or a name on the hub; else a small GPT on bytes, with new weights",
        "PLACE",
        "text",
        is_text,
    ),
}


def _count(about: str) -> Setting:
    return Setting(about, "N", "a whole number of at least 1", lambda value: is_whole(value, 1))


_GENERATION_FILES: Mapping[str, Setting] = {
    "train_file": dataclasses.replace(
        FILES["train_file"], about=f"{FILES['train_file'].about}; else sources of Python's library", is_required=False
    ),
    "val_file": dataclasses.replace(
        FILES["val_file"], about=f"{FILES['val_file'].about}; else the last tenth of that", is_required=False
    ),
    "text_column": FILES["text_column"],
}

_BLOCKS: Mapping[str, Setting] = {
    "context": Setting(
        "tokens of a block (default: 64; of a pretrained model as many as it takes, at most 512)",
        "N",
        "a whole number of at least 2",
        lambda value: is_whole(value, 2),
    ),
    "val_blocks": _count("blocks to validate on at most, from all over the validation data; else all"),
}

SMALL_GPT: Mapping[str, Setting] = {
    "num_layers": _count("layers of the small GPT (default: 2)"),
    "hidden": _count("its width (default: 256)"),
    "num_heads": _count("its heads of attention (default: 4)"),
}

CAUSAL_LM: Mapping[str, Setting] = {
    **_GENERATION_MODEL,
    **_GENERATION_FILES,
    **_BLOCKS,
    **SMALL_GPT,
    **{name: setting for name, setting in ADAPTATION.items() if name != "max_length"},
}
"""Hyperparameters of :func:`trainables.tasks.causal_lm.build`."""


def check_config(config: Mapping[str, Any], settings: Mapping[str, Setting]) -> None:
    """Refuses a configuration that lacks what is required, or holds a value that is not valid.

    Args:
        config: a trial's hyperparameters; those without a setting are left to others.
        settings: by name.

    Raises:
        TaskError: one line that names the hyperparameter.
    """
    for name, setting in settings.items():
        value = config.get(name)
        if value is None and setting.is_required:
            refuse(name, "must be given", "nothing", f"give {setting.about}")
        if value is not None and not setting.holds(value):
            refuse(name, f"must be {setting.condition}", repr(value), "correct the configuration")


def columns(config: Mapping[str, Any]) -> tuple[Column | None, Column | None]:
    """Where a configuration says that texts and labels stand."""
    return config.get("text_column"), config.get("label_column")
