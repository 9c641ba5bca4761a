"""A model from a folder that Hugging Face's transformers wrote; the library is needed for these alone."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.loading import TaskError

CONFIG_FILE = "config.json"
"""What such a folder holds besides weights."""


_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def load_pretrained(folder: Path) -> nn.Module:
    """The model of a folder, of the architecture that its configuration names, with all weights in FP32 on the CPU.

    Nothing is looked up outside the folder, and no code in it runs.

    Args:
        folder: holds ``config.json`` and the weights.

    Raises:
        TaskError: transformers is not installed, does not know the architecture, or lacks weights of it in the folder,
            which it would fill with random numbers.
    """
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        need = f"model: a Hugging Face folder needs transformers, got {error}"
        raise TaskError(f"{need}; pip install 'ampsweep[huggingface]'") from error
    with _quiet(transformers.utils.logging):
        names = transformers.AutoConfig.from_pretrained(folder, **_LOCAL).architectures or ["AutoModel"]
        architecture = getattr(transformers, names[0], None)
        if architecture is None:
            raise TaskError(
                f"model: {CONFIG_FILE} must name an architecture that transformers {transformers.__version__} has, got "
                f"{names[0]!r}; write a function that builds it, and give module:function"
            )
        # By default the weights would come in the format that they were saved in.
        model, found = architecture.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **_LOCAL)
    missing = sorted(found["missing_keys"])
    if missing:
        raise TaskError(
            f"model: the folder must hold all weights of {names[0]}, got none for {', '.join(missing[:3])}"
            f"{' ...' if missing[3:] else ''}; save the whole model"
        )
    assert isinstance(model, nn.Module)
    return model


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Keeps transformers' own reports and progress bars back: what matters of them is an error here."""
    verbosity, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_progress:
            logging.enable_progress_bar()
