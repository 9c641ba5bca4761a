"""Fine-tuning a pretrained model to classify texts: any of Hugging Face's, on a file of texts and labels."""

import functools
import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from trainables.language.attention import settle_attention
from trainables.language.batches import TextData
from trainables.language.inputs import check_classes, check_labels
from trainables.language.limits import check_vocabulary, most_tokens
from trainables.language.models import adapt, load_model, load_tokenizer
from trainables.language.settings import TEXT_CLASSIFICATION, check_config, columns
from trainables.language.tokens import Tokens, padding_id, tokenize
from trainables.outputs import accuracy
from trainables.task import Task

CLASSIFIER = "AutoModelForSequenceClassification"


def build(config: Mapping[str, Any]) -> Task:
    """The task for a configuration.

    Args:
        config: ``model``, ``train_file`` and ``val_file``; optionally ``text_column``, ``label_column``, ``max_length``
            (tokens, at most what the model takes), and what :func:`trainables.language.models.adapt` reads.

    Raises:
        TaskError: the model or the data cannot be used; one line that says why.
    """
    check_config(config, TEXT_CLASSIFICATION)
    place = config["model"]
    tokenizer = load_tokenizer(place)
    asked = config.get("max_length")
    train, val = _tokens(config, tokenizer, most_tokens(asked, tokenizer))
    model = load_model(CLASSIFIER, place, num_labels=len(train.label_names))
    if most_tokens(asked, tokenizer, model) != most_tokens(asked, tokenizer):
        train, val = _tokens(config, tokenizer, most_tokens(asked, tokenizer, model))
    check_vocabulary(model, tokenizer, train.ids, val.ids)
    remarks = settle_attention(model)
    padding = padding_id(tokenizer)
    _configure(model, train.label_names, padding)
    train_set = TextData(train.ids, train.offsets, train.labels, padding)
    # The longest first: they pad little beside each other, and what does not fit in memory shows at once.
    order = np.argsort(-val.lengths, kind="stable")
    return Task(
        adapt(model, config),
        train_set,
        TextData(val.ids, val.offsets, _as_in(train, val), padding, order),
        metrics=_metrics(len(train.label_names)),
        collate=train_set.join,
        lengths=train.lengths,  # type: ignore[arg-type]
        remarks=(*train.remarks, *val.remarks, *remarks),
    )


def _tokens(config: Mapping[str, Any], tokenizer: Any, max_length: int | None) -> tuple[Tokens, Tokens]:
    """Of the training and the validation file, the second read by the columns that were found in the first."""
    train_place, val_place = config["train_file"], config["val_file"]
    train = tokenize(train_place, "train_file", tokenizer, max_length, *columns(config), labelled=True)
    check_classes(train.label_names)
    found = train.text_column, train.label_column
    val = tokenize(val_place, "val_file", tokenizer, max_length, *found, labelled=True)
    check_labels(val_place, train.label_names, val.label_names, val.label_lines)
    return train, val


def _as_in(train: Tokens, val: Tokens) -> NDArray[np.int64]:
    """The validation set's labels by the numbers that training gives them."""
    number = {name: index for index, name in enumerate(train.label_names)}
    return np.array([number[name] for name in val.label_names], dtype=np.int64)[val.labels]


def _configure(model: nn.Module, labels: tuple[str, ...], padding: int) -> None:
    config: Any = model.config
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in enumerate(labels)}
    config.problem_type = "single_label_classification"
    if config.pad_token_id is None:  # by which models that read from left to right find a text's last token
        config.pad_token_id = padding


def _metrics(num_labels: int) -> dict[str, Any]:
    """Accuracy for each example, which pairs are compared by; macro F1 where torchmetrics is installed."""
    metrics: dict[str, Any] = {"accuracy": accuracy}
    if importlib.util.find_spec("torchmetrics") is not None:
        f1 = importlib.import_module("torchmetrics.classification").MulticlassF1Score
        metrics["macro_f1"] = functools.partial(f1, num_classes=num_labels, average="macro")
    return metrics
