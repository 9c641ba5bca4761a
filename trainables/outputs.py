"""Logits, labels and losses of any model: tensors, tuples, dicts and Hugging Face's ``ModelOutput`` alike."""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from trainables.task import Batch

IGNORED_LABEL = -100
"""The label that cross-entropy leaves out, by PyTorch's convention."""


LABELS = ("labels", "label")
"""Keys of a dict batch that hold what is compared with, not what is computed with."""


def to_device(batch: Batch, device: torch.device, dtype: torch.dtype | None = None) -> Batch:
    """A batch on a device, its floating-point inputs in ``dtype`` where one is given; labels keep theirs."""
    if isinstance(batch, Mapping):
        return {name: _move(value, device, None if name in LABELS else dtype) for name, value in batch.items()}
    if isinstance(batch, tuple | list) and len(batch) > 1 and not hasattr(batch, "to"):
        inputs = (_move(value, device, dtype) for value in batch[:-1])
        return _like(batch, (*inputs, _move(batch[-1], device, None)))
    return _move(batch, device, dtype)


def _move(value: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if isinstance(value, torch.Tensor):
        wanted = dtype if dtype is not None and value.is_floating_point() else None
        return value.to(device=device, dtype=wanted, non_blocking=True)
    if isinstance(value, Mapping):
        return {name: _move(each, device, dtype) for name, each in value.items()}
    if hasattr(value, "to"):  # as of a graph, or of packed sequences
        return value.to(device)
    if isinstance(value, tuple | list):
        return _like(value, tuple(_move(each, device, dtype) for each in value))
    return value


def _like(value: Any, parts: tuple[Any, ...]) -> Any:
    """Parts as a tuple, with the names that those of the value may have."""
    return type(value)(*parts) if hasattr(value, "_fields") else parts


def upcast(outputs: Any) -> Any:
    """A model's outputs with floating-point tensors in FP32: every precision is scored in the same arithmetic."""
    if isinstance(outputs, torch.Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, Mapping):
        cast = copy.copy(outputs)
        for name in outputs:
            cast[name] = upcast(outputs[name])  # type: ignore[index]
        return cast
    if type(outputs) in (tuple, list):
        return type(outputs)(upcast(value) for value in outputs)
    return outputs


def batch_length(batch: Batch) -> int:
    """The number of examples in a batch: the length of its first tensor."""
    first = next(iter(batch.values())) if isinstance(batch, Mapping) else batch
    first = first[0] if isinstance(first, tuple | list) else first
    return len(first)


def labels_of(batch: Batch) -> torch.Tensor | None:
    """The labels of a batch: under ``"labels"`` or ``"label"`` of a dict, last of a tuple; ``None`` if it has none."""
    if isinstance(batch, Mapping):
        found = batch.get("labels", batch.get("label"))
        return found if isinstance(found, torch.Tensor) else None
    return batch[-1] if isinstance(batch, tuple | list) and len(batch) > 1 else None


def logits_of(outputs: Any) -> torch.Tensor:
    """The logits among a model's outputs.

    Raises:
        TypeError: the outputs hold no tensor that could be logits.
    """
    if isinstance(outputs, Mapping):
        outputs = outputs["logits"] if "logits" in outputs else tuple(outputs.values())
    elif hasattr(outputs, "logits"):
        outputs = outputs.logits
    if isinstance(outputs, tuple | list):
        # A model that computes its own loss may put it, a scalar, in front.
        outputs = next((o for o in outputs if isinstance(o, torch.Tensor) and o.dim() > 0), None)
    if not isinstance(outputs, torch.Tensor):
        raise TypeError("the model's outputs hold no logits; return a tensor, a tuple, or a dict with 'logits'")
    return outputs


def own_loss(outputs: Any) -> torch.Tensor | None:
    """The loss that the model itself returned: under ``loss``, or a scalar in front of a tuple; ``None`` without."""
    if isinstance(outputs, tuple | list) and not hasattr(outputs, "loss"):
        found = outputs[0] if outputs and isinstance(outputs[0], torch.Tensor) and outputs[0].dim() == 0 else None
    else:
        found = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    return found if isinstance(found, torch.Tensor) else None


def default_loss(outputs: Any, batch: Batch) -> torch.Tensor:
    """The model's own loss, else the mean cross-entropy of its logits (..., classes) with integer labels (...).

    Raises:
        TypeError: there are no integer labels to compare with.
    """
    found = own_loss(outputs)
    if found is not None:
        return found
    labels = labels_of(batch)
    if labels is None or labels.is_floating_point():
        raise TypeError("the default loss needs integer labels; give Task(loss=...) for other targets")
    logits = logits_of(outputs).float()
    _refuse_single_logit(logits)
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten().long(), ignore_index=IGNORED_LABEL)


def accuracy(outputs: Any, batch: Batch, shift: int = 0) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Whether each example's label (B,) is its largest logit; for labels (B, T) the (sum, count) over tokens.

    As a task's metric it is given the shift of the loss that the model itself computes; with a loss of the task's, 0.

    Args:
        outputs: with logits (B, classes) or (B, T, classes).
        batch: with integer labels (B,) or (B, T).
        shift: by how many places labels are ahead of the logits that predict them.
    """
    _refuse_single_logit(logits_of(outputs))
    logits, labels = aligned(outputs, batch, shift)
    right = logits.argmax(-1) == labels
    if labels.dim() == 1:
        return right.float()
    kept = labels != IGNORED_LABEL
    return (right & kept).sum(), kept.sum()


def aligned(outputs: Any, batch: Batch, shift: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and the labels (as the logits without their last dimension) that they predict; ``shift`` as above."""
    logits, labels = logits_of(outputs), labels_of(batch)
    assert labels is not None
    labels = labels.reshape(logits.shape[:-1])  # (B, 1) would be compared with (B,) as a table
    return (logits[:, :-shift], labels[:, shift:]) if shift else (logits, labels)


def _refuse_single_logit(logits: torch.Tensor) -> None:
    if logits.shape[-1] == 1:
        raise TypeError(
            "one logit has no largest: the default loss and accuracy need one a class; give Task(loss=, metrics=)"
        )


def make_forward(model: nn.Module, call: Callable[..., Any] | None = None) -> Callable[[Batch], Any]:
    """How to call a model on a batch: a dict as keywords that its ``forward`` knows, a tuple without its labels.

    Args:
        model: whose ``forward`` is asked what it knows.
        call: what is called in its place, with the same arguments.
    """
    run = call or model
    parameters = inspect.signature(model.forward).parameters.values()
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    known = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}

    def forward(batch: Batch) -> Any:
        if isinstance(batch, Mapping):
            if takes_any or known & batch.keys():
                return run(**{name: value for name, value in batch.items() if takes_any or name in known})
            return run(batch)
        if isinstance(batch, tuple | list):
            return run(*batch[:-1]) if len(batch) > 1 else run(*batch)
        return run(batch)

    return forward


def vocabulary_size(model: nn.Module) -> int | None:
    """How many token ids a model knows, or, of a plain model without embeddings, how many logits it has.

    A configuration says it (``config.vocab_size``, or that of its text part), but no more than there are rows in the
    embeddings, which may be padded beyond the ids in use. Without one it is the rows of the embeddings; of several,
    those of the one with as many rows as the last linear layer has outputs, else of the first. Without embeddings it is
    the outputs of the linear layer that was registered last. A model that wraps another (``DistributedDataParallel``, a
    ``LightningModule``) has the other's.

    Args:
        model: one of Hugging Face's, or any other.

    Returns:
        the size; ``None`` where there is none, as in Hugging Face's models of images.
    """
    parts = list(model.modules())
    said = next((size for part in parts if (size := _configured_size(part)) is not None), None)
    rows = next((size for part in parts if (size := _declared_rows(part)) is not None), None)
    if said is not None:
        return said if rows is None else min(said, rows)
    if rows is not None or any(hasattr(part, "get_input_embeddings") for part in parts):
        return rows
    outputs = next((part.out_features for part in reversed(parts) if isinstance(part, nn.Linear)), None)
    sizes = [part.num_embeddings for part in parts if isinstance(part, nn.Embedding | nn.EmbeddingBag)]
    return outputs if outputs in sizes or not sizes else sizes[0]


def _configured_size(part: nn.Module) -> int | None:
    config: Any = getattr(part, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else getattr(config, "text_config", None)
    sizes = (getattr(each, "vocab_size", None) for each in (config, text))
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)


def _declared_rows(part: nn.Module) -> int | None:
    """Rows of what a model of Hugging Face's calls its embeddings; those of its output count, as the loss does."""
    for name in ("get_output_embeddings", "get_input_embeddings"):
        try:
            weight = getattr(getattr(part, name)(), "weight", None)
        except (AttributeError, NotImplementedError):  # no such method, or no tokens
            continue
        if isinstance(weight, torch.Tensor) and weight.dim() == 2:
            return weight.shape[0]
    return None
