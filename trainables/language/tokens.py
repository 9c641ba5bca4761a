"""Token ids of a file's texts: made once on a node, flat in one array on disk that all its trials read from."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.language.cache import Array, Arrays, load_or_make
from trainables.language.files import Column, refuse
from trainables.language.hub_data import load_hub
from trainables.language.texts import LabelledTexts, Texts, is_file, read_labelled, read_texts, sorted_labels

CHUNK = 16_384
"""Texts that are tokenised in one call, by all threads: few enough to keep the lists that come back small."""

FORMAT = 1
"""Of what is kept on disk; to be raised where it changes."""

PARALLELISM = "TOKENIZERS_PARALLELISM"


@dataclass(frozen=True)
class Tokens:
    """Token ids of texts.

    Args:
        ids: of all texts, one after the other.
        offsets: (num_texts + 1,) where each begins in ``ids``, and where the last one ends.
        labels: (num_texts,) the number of each one's label in ``label_names``; empty without labels.
        label_names: sorted.
        label_lines: the line in which each label occurs first.
        text_column, label_column: where texts and labels stand in the file.
        remarks: what a user should know, a sentence each.
    """

    ids: Array
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    label_lines: tuple[int, ...]
    text_column: Column
    label_column: Column | None
    remarks: tuple[str, ...]

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens of each text (num_texts,)."""
        return np.diff(self.offsets)


def tokenize(
    place: str,
    field: str,
    tokenizer: Any,
    max_length: int | None,
    text_column: Column | None = None,
    label_column: Column | None = None,
    labelled: bool = False,
) -> Tokens:
    """The tokens of a file's texts, with the tokenizer's own special tokens; from the cache where they are there.

    Args:
        place: a file, or a data set of the hub.
        field: the hyperparameter that named it.
        tokenizer: one of transformers'.
        max_length: tokens of a text at most, the rest is left out; ``None`` takes all.
        text_column, label_column: where texts and labels stand; ``None`` where that leaves no doubt.
        labelled: whether each text has a label.

    Raises:
        TaskError: the data cannot be used; one line that says why.
    """
    content = content_digest(place, field)
    return _tokenize(place, field, content, tokenizer, max_length, text_column, label_column, labelled)


@lru_cache(maxsize=16)
def _tokenize(
    place: str,
    field: str,
    content: str,
    tokenizer: Any,
    max_length: int | None,
    text_column: Column | None,
    label_column: Column | None,
    labelled: bool,
) -> Tokens:
    options = [FORMAT, max_length, text_column, label_column, labelled]
    key = hashlib.sha256(json.dumps([content, tokenizer_digest(tokenizer), options]).encode()).hexdigest()[:32]

    def make() -> Arrays:
        if labelled:
            return _made(read_labelled(place, field, text_column, label_column), tokenizer, max_length)
        return _made(read_texts(place, field, text_column), tokenizer, max_length)

    found = load_or_make(f"tokens-{key}", make)
    about = found.about
    remarks = [f"{place}: {said}" for said in about["remarks"]]
    if found.fault is not None:
        remarks.append(f"every process tokenises {place} anew: {found.fault}; set AMPSWEEP_CACHE to a folder that can")
    return Tokens(
        **found.arrays,
        label_names=tuple(about["label_names"]),
        label_lines=tuple(about["label_lines"]),
        text_column=about["text_column"],
        label_column=about["label_column"],
        remarks=tuple(remarks),
    )


def _made(texts: Texts, tokenizer: Any, max_length: int | None) -> Arrays:
    ids, offsets, num_truncated = encode(texts.texts, tokenizer, max_length)
    written = texts.labels if isinstance(texts, LabelledTexts) else []
    lines: dict[str, int] = {}
    for label, line in zip(written, texts.table.lines if written else (), strict=True):
        lines.setdefault(label, line)
    names = sorted_labels(written)
    number = {name: index for index, name in enumerate(names)}
    about = {
        "label_names": names,
        "label_lines": [lines[name] for name in names],
        "text_column": texts.text_column,
        "label_column": texts.label_column if isinstance(texts, LabelledTexts) else None,
        "remarks": _remarks(texts, len(names), num_truncated, max_length),
    }
    labels = np.array([number[label] for label in written], dtype=np.int64)
    return Arrays({"ids": ids, "offsets": offsets, "labels": labels}, about)


def _remarks(texts: Texts, num_labels: int, num_truncated: int, max_length: int | None) -> list[str]:
    num = len(texts.texts)
    said = f"{num:,} texts in column {texts.text_column}"
    if isinstance(texts, LabelledTexts):
        said += f", {num_labels} labels in column {texts.label_column}"
    remarks = [said if texts.table.has_header else f"{said}; its first row is no header"]
    if num_truncated:
        remarks.append(f"{num_truncated:,} of {num:,} texts were truncated to {max_length} tokens")
    return remarks


def encode(
    texts: Sequence[str], tokenizer: Any, max_length: int | None, empty: int | None = None
) -> tuple[Array, NDArray[np.int64], int]:
    """Token ids of texts, in order: all ids flat, the offsets (num_texts + 1,), and how many were truncated.

    Args:
        texts: any number.
        tokenizer: one of transformers'.
        max_length: tokens of a text at most; ``None`` takes all.
        empty: what a text becomes that has no token at all, where the tokenizer adds none; default: one of padding.
    """
    _settle_forks()
    empty = padding_id(tokenizer) if empty is None else empty
    kind = np.uint16 if len(tokenizer) <= np.iinfo(np.uint16).max else np.int32
    parts, lengths, num_truncated = [], [], 0
    for start in range(0, len(texts), CHUNK):
        found = _ids(list(texts[start : start + CHUNK]), tokenizer)
        long = [index for index, ids in enumerate(found) if max_length is not None and len(ids) > max_length]
        if long:  # again, since the tokenizer knows what must stay at the end
            short = _ids([texts[start + index] for index in long], tokenizer, truncation=True, max_length=max_length)
            for index, ids in zip(long, short, strict=True):
                found[index] = ids
        num_truncated += len(long)
        found = [ids or [empty] for ids in found]
        lengths += [len(ids) for ids in found]
        parts.append(np.fromiter(chain.from_iterable(found), dtype=kind))
    offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    return np.concatenate(parts) if parts else np.empty(0, kind), offsets, num_truncated


def _ids(texts: list[str], tokenizer: Any, **options: Any) -> list[list[int]]:
    wanted = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    return list(tokenizer(texts, **{"truncation": False, **options}, **wanted)["input_ids"])


def padding_id(tokenizer: Any, vocabulary: int | None = None) -> int:
    """The id that fills batches up: the tokenizer's own for it, else the one that ends a text, else 0.

    Args:
        tokenizer: one of transformers'.
        vocabulary: ids that the model knows; a token of padding that was added to its tokenizer later is none of them.
    """
    for found in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if found is not None and (vocabulary is None or found < vocabulary):
            return int(found)
    return 0


@cache
def _settle_forks() -> None:
    """The tokenizer's threads do not outlive a fork; it would warn of that on every one, unless it is told before."""
    os.register_at_fork(before=lambda: os.environ.setdefault(PARALLELISM, "false"))


@lru_cache(maxsize=8)
def tokenizer_digest(tokenizer: Any) -> str:
    """A fingerprint of all that a tokenizer's ids depend on."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()  # which every call sets anew
        backend.no_padding()
        state = backend.to_str()
    else:
        state = json.dumps([tokenizer.get_vocab(), repr(tokenizer)], sort_keys=True)
    versions = [type(tokenizer).__qualname__, version("transformers"), version("tokenizers")]
    options = [tokenizer.special_tokens_map, tokenizer.truncation_side, tokenizer.split_special_tokens]
    return hashlib.sha256(json.dumps([versions, options, state]).encode()).hexdigest()


def content_digest(place: str, field: str) -> str:
    """A fingerprint of the content of a file, or the one that a data set of the hub has itself.

    Args:
        place: the file or data set.
        field: the hyperparameter that named it.

    Raises:
        TaskError: there is no such file or data set.
    """
    if not is_file(place):
        return str(load_hub(place, field)._fingerprint)
    try:
        seen = Path(place).stat()
        return _digest(str(Path(place).resolve()), seen.st_mtime_ns, seen.st_size)
    except OSError:
        refuse(field, "must be an existing file", repr(place), "check the path")


@lru_cache(maxsize=16)
def _digest(file: str, mtime_ns: int, size: int) -> str:
    """Read once a process, as long as the file stays as it is."""
    with open(file, "rb") as content:
        return f"{Path(file).suffix} {hashlib.file_digest(content, 'sha256').hexdigest()}"
