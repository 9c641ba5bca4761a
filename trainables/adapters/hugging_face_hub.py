"""Hugging Face's hub: what of it is on this machine already, and whether the rest can be had."""

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainables.loading import TaskError

TIMEOUT_S = 5.0
"""How long the hub may take to answer at all."""

_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


def is_hub_name(place: str) -> bool:
    """Whether a text has the form of a name on the hub: ``name`` or ``owner/name``."""
    return _NAME.fullmatch(place) is not None


def is_here(place: str, file: str) -> bool:
    """Whether this machine has a file of a model.

    Args:
        place: a folder, or a name on the hub.
        file: its name.
    """
    if Path(place).is_dir():
        return Path(place, file).is_file()
    return isinstance(importlib.import_module("huggingface_hub").try_to_load_from_cache(place, file), str)


@contextmanager
def offline() -> Iterator[None]:
    """Lets nothing ask the hub, which some parts of transformers do although they are told to stay on this machine."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def check_reachable(name: str) -> None:
    """Asks the hub once for a model; transformers itself would ask a hub that does not answer for a minute.

    Args:
        name: on the hub.

    Raises:
        TaskError: the hub cannot be reached, has no such model, or lets nobody in without a token.
    """
    hub: Any = importlib.import_module("huggingface_hub")
    try:
        hub.HfApi().model_info(name, timeout=TIMEOUT_S)
    except Exception as error:
        response = getattr(error, "response", None)
        code = getattr(response, "status_code", None)
        if code in (401, 403, 404):
            condition = f"must be a folder here or a model that the hub shows (it answers {code})"
            remedy = "check the name; for a private or gated model log in by hf auth login"
        else:
            condition = (
                f"must be on this machine, since the hub cannot be reached ({type(error).__name__}: {str(error)[:120]})"
            )
            remedy = "give a local folder, or download the model where there is a connection"
        raise TaskError(f"model: {condition}, got {name!r}; {remedy}") from error
