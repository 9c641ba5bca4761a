"""Fine-tuning a pretrained model to classify texts: any of Hugging Face's, on a file of texts and labels."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from trainables.language.attention import settle_attention
from trainables.language.batches import TextData
from trainables.language.inputs import check_classes, check_first_row, check_labels
from trainables.language.limits import check_vocabulary, most_tokens
from trainables.language.macro_f1 import MacroF1
from trainables.language.models import adapt, load_model, load_tokenizer
from trainables.language.settings import TEXT_CLASSIFICATION, check_config, columns
from trainables.language.tokens import Tokens, padding_id, tokenize
from trainables.outputs import accuracy, vocabulary_size
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
    padding = padding_id(tokenizer, vocabulary_size(model))
    names = _in_order_of(model, train.label_names)
    _configure(model, names, padding)
    train_set = TextData(train.ids, train.offsets, _numbers(train, names), padding)
    # The longest first: they pad little beside each other, and what does not fit in memory shows at once.
    order = np.argsort(-val.lengths, kind="stable")
    return Task(
        adapt(model, config),
        train_set,
        TextData(val.ids, val.offsets, _numbers(val, names), padding, order),
        metrics={"accuracy": accuracy, "macro_f1": functools.partial(MacroF1, len(names))},
        collate=train_set.join,
        lengths=train.lengths,  # type: ignore[arg-type]
        remarks=(*train.remarks, *val.remarks, *remarks),
    )


def _tokens(config: Mapping[str, Any], tokenizer: Any, max_length: int | None) -> tuple[Tokens, Tokens]:
    """Of the training and the validation file, the second read by the columns that were found in the first."""
    train_place, val_place = config["train_file"], config["val_file"]
    train = tokenize(train_place, "train_file", tokenizer, max_length, *columns(config), labelled=True)
    check_classes(train.label_names)
    counts = dict(zip(train.label_names, np.bincount(train.labels).tolist(), strict=True))
    check_first_row(train_place, train.label_column, train.label_names[train.labels[0]], counts)
    found = train.text_column, train.label_column
    val = tokenize(val_place, "val_file", tokenizer, max_length, *found, labelled=True)
    check_labels(val_place, train.label_names, val.label_names, val.label_lines)
    return train, val


def _in_order_of(model: nn.Module, names: tuple[str, ...]) -> tuple[str, ...]:
    """The labels in the order in which a head that was trained on the same ones has them; else as they are."""
    config: Any = model.config
    written = {name.casefold(): name for name in names}
    known = [str(label).casefold() for _, label in sorted(config.id2label.items())]
    return tuple(written[label] for label in known) if sorted(known) == sorted(written) else names


def _numbers(tokens: Tokens, names: tuple[str, ...]) -> NDArray[np.int64]:
    """Each text's label as its place among the labels of training."""
    number = {name: index for index, name in enumerate(names)}
    return np.array([number[name] for name in tokens.label_names], dtype=np.int64)[tokens.labels]


def _configure(model: nn.Module, labels: tuple[str, ...], padding: int) -> None:
    config: Any = model.config
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in enumerate(labels)}
    config.problem_type = "single_label_classification"
    # Models that read from left to right find a text's last token by it: it must be what fills these batches up.
    config.pad_token_id = config.get_text_config().pad_token_id = padding
