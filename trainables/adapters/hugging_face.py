"""Models and tokenizers that Hugging Face's transformers reads, from folders and from its hub; needed for these alone.

No code that comes with a model ever runs.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from trainables.adapters.hugging_face_hub import check_reachable, is_here, is_hub_name, offline
from trainables.loading import TaskError, describe
from trainables.memory import is_out_of_memory

CONFIG_FILE = "config.json"
"""What such a folder holds besides weights."""

_ENCODER_PARTS = ("pooler",)
"""Parts inside an encoder that models trained on masked words lack, and that belong to a head by what they do."""


def load_pretrained(folder: Path) -> nn.Module:
    """The model of a folder, of the architecture that its configuration names, with all weights in FP32 on the CPU.

    Nothing is looked up outside the folder.

    Args:
        folder: holds ``config.json`` and the weights.

    Raises:
        TaskError: transformers is not installed, does not know the architecture, or lacks weights of it in the folder,
            which it would fill with random numbers.
    """
    transformers = _transformers("a Hugging Face folder")
    with quiet(transformers.utils.logging):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        names = config.architectures or ["AutoModel"]
        architecture = getattr(transformers, names[0], None)
        if architecture is None:
            raise TaskError(
                f"model: {CONFIG_FILE} must name an architecture that transformers {transformers.__version__} has, got "
                f"{names[0]!r}; write a function that builds it, and give module:function"
            )
        model, missing = _read_weights(architecture, str(folder), local_files_only=True)
    if missing:
        _refuse_missing(names[0], missing)
    return model


def read_model(auto_class: str, place: str, overrides: Mapping[str, Any]) -> tuple[nn.Module, list[str]]:
    """A model for a task, with all weights in FP32 on the CPU.

    Args:
        auto_class: of transformers, for example ``AutoModelForCausalLM``.
        place: a folder, or a name on the hub, which is asked only for what this machine has not.
        overrides: of the model's configuration, for example ``num_labels``.

    Returns:
        the model, and the names of its parameters that the place has no weights for: of a new head alone, with random
        values. For text generation there is none, since its head comes from pretraining.

    Raises:
        TaskError: no such model can be had there; one line that says what to do.
    """
    kind = getattr(_transformers("a model by name"), auto_class)
    if Path(place).is_dir() and not Path(place, CONFIG_FILE).is_file():
        _refuse(f"the folder must hold {CONFIG_FILE} and weights", place, "save it by save_pretrained")
    model, missing = _from_anywhere(
        place, lambda **where: _read_weights(kind, place, **overrides, ignore_mismatched_sizes=True, **where)
    )
    lacking = [name for name in missing if auto_class == "AutoModelForCausalLM" or not _is_of_head(model, name)]
    if lacking:
        _refuse_missing(type(model).__name__, lacking)
    return model, missing


def read_tokenizer(place: str) -> Any:
    """The tokenizer of a model.

    Args:
        place: a folder, or a name on the hub, which is asked only for what this machine has not.

    Raises:
        TaskError: no tokenizer can be had there; one line that says what to do.
    """
    auto_class = _transformers("a tokenizer by name").AutoTokenizer

    def read(**where: Any) -> Any:
        try:
            found = auto_class.from_pretrained(place, trust_remote_code=False, **where)
        except ValueError as error:  # as where it finds no file to make one from
            raise OSError(str(error)) from error
        files = {"tokenizer.json", *type(found).vocab_files_names.values()}
        # From a configuration alone some are made that know nothing but their special tokens.
        if type(found).vocab_files_names and not any(is_here(place, file) for file in files):
            raise OSError(f"none of {', '.join(sorted(files))}")
        return found

    try:
        return _from_anywhere(place, read)
    except TaskError as error:
        if not Path(place).is_dir():
            raise
        condition = f"the folder must hold a tokenizer ({str(error.__cause__ or error)[:100]})"
        raise TaskError(
            f"model: {condition}, got {place!r}; save it there by tokenizer.save_pretrained"
        ) from error.__cause__


def _transformers(what: str) -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        need = f"model: {what} needs transformers, got {error}"
        raise TaskError(f"{need}; pip install 'ampsweep[huggingface]'") from error


def _from_anywhere(place: str, read: Callable[..., Any]) -> Any:
    """What ``read(local_files_only=...)`` returns: from this machine, else from the hub where it can be reached."""
    is_folder = Path(place).is_dir()
    if not is_folder and not is_hub_name(place):
        _refuse("must be an existing folder or a name on the hub", place, "check the path")
    with quiet(importlib.import_module("transformers.utils.logging")):
        try:
            with offline():
                return read(local_files_only=True)
        except Exception as error:
            if is_folder or not isinstance(error, OSError):
                _refuse_unread(place, error)
        check_reachable(place)
        try:
            return read(local_files_only=False)
        except Exception as error:
            _refuse_unread(place, error)


def _refuse_unread(place: str, error: Exception) -> NoReturn:
    if is_out_of_memory(error):
        raise error
    what = _first_sentence(error)
    if isinstance(error, ValueError | TypeError | KeyError):
        remedy = "take a model of another architecture, or another version of transformers; code in a model never runs"
        _refuse(f"must be of an architecture that serves this task ({what})", place, remedy, error)
    _refuse(f"must be readable ({what})", place, "save or download the whole model again", error)


def _first_sentence(error: Exception) -> str:
    return describe(error).split(". ")[0].split(" (")[0][:200]


def _refuse(condition: str, got: str, remedy: str, cause: Exception | None = None) -> NoReturn:
    raise TaskError(f"model: {condition}, got {got!r}; {remedy}") from cause


def _read_weights(architecture: Any, place: str, **options: Any) -> tuple[nn.Module, list[str]]:
    """A model, and the names of its parameters that were not read."""
    # By default the weights would come in the format that they were saved in.
    model, found = architecture.from_pretrained(
        place, dtype=torch.float32, output_loading_info=True, trust_remote_code=False, **options
    )
    assert isinstance(model, nn.Module)
    return model, sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})


def _is_of_head(model: Any, name: str) -> bool:
    prefix = f"{model.base_model_prefix}."
    return not name.startswith(prefix) or name.removeprefix(prefix).split(".")[0] in _ENCODER_PARTS


def _refuse_missing(architecture: str, missing: list[str]) -> NoReturn:
    raise TaskError(
        f"model: the folder must hold all weights of {architecture}, got none for {', '.join(missing[:3])}"
        f"{' ...' if missing[3:] else ''}; save the whole model"
    )


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Keeps transformers' own reports and progress bars back: what matters of them is an error here.

    Args:
        logging: the module ``transformers.utils.logging``.
    """
    verbosity, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_progress:
            logging.enable_progress_bar()
