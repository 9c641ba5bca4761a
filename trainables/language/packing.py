"""Tokens packed into blocks of one length: documents joined, each ended by a token, and cut without padding."""

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trainables.language.cache import Array, Arrays, load_or_make
from trainables.language.documents import python_sources, read_documents
from trainables.language.files import Column
from trainables.language.tokens import content_digest, encode, tokenizer_digest

END_OF_BYTES = 256
"""The token that ends a document of bytes, which are tokens themselves."""

FORMAT = 2
"""Of what is kept on disk; to be raised where it changes."""


class Blocks(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Blocks of tokens; an item is a block (length,), int64, as input and as labels, which losses shift by one.

    Args:
        tokens: of all documents, one after the other; what does not fill a block at the end is left out.
        length: of a block.
    """

    def __init__(self, tokens: Array, length: int) -> None:
        self._tokens = tokens[: len(tokens) // length * length].reshape(-1, length)

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One block."""
        block = torch.from_numpy(self._tokens[index].astype(np.int64))
        return block, block

    def __getitems__(self, indices: Sequence[int]) -> torch.Tensor:
        """Several blocks (B, length) at once, which PyTorch's loader asks for where it can."""
        return torch.from_numpy(self._tokens[indices].astype(np.int64))


def join_blocks(items: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of blocks as input and as labels (B, length): what a task gives as its ``collate``."""
    blocks = items if isinstance(items, torch.Tensor) else torch.stack([block for block, _ in items])
    return blocks, blocks


def pack_bytes(documents: Sequence[str]) -> NDArray[np.uint16]:
    """The bytes of documents in UTF-8, each document ended by :data:`END_OF_BYTES`."""
    parts: list[NDArray[np.uint16]] = []
    for document in documents:
        parts.append(np.frombuffer(document.encode("utf-8", "surrogatepass"), np.uint8).astype(np.uint16))
        parts.append(np.array([END_OF_BYTES], np.uint16))
    return np.concatenate(parts)


def pack(ids: Array, offsets: NDArray[np.int64], end: int) -> Array:
    """The tokens of documents, each ended by a token unless its own last one is that.

    Args:
        ids: of all documents, one after the other.
        offsets: (num_documents + 1,) where each begins.
        end: the token.
    """
    ends = offsets[1:][ids[offsets[1:] - 1] != end]
    return np.insert(ids, ends, end)


@functools.lru_cache(maxsize=4)
def _bytes_of(place: str | None, field: str, text_column: Column | None, _content: str) -> Array:
    return pack_bytes(python_sources() if place is None else read_documents(place, field, text_column))


def byte_tokens(place: str | None, field: str, text_column: Column | None = None) -> Array:
    """The bytes of a place's documents, packed; read once in a process.

    Args:
        place: a file or data set of the hub; ``None`` for the sources of Python's own library.
        field: the hyperparameter that named it.
        text_column: where documents stand; ``None`` where that leaves no doubt.

    Raises:
        TaskError: the data cannot be used; one line that says why.
    """
    return _bytes_of(place, field, text_column, "" if place is None else content_digest(place, field))


def packed_tokens(place: str, field: str, tokenizer: Any, text_column: Column | None = None) -> tuple[Array, list[str]]:
    """The tokens of a place's documents, packed, made once on a node; and what a user should know of that.

    Args:
        place, field, text_column: as of :func:`byte_tokens`.
        tokenizer: one of transformers', with a token that ends a document.

    Raises:
        TaskError: the data cannot be used; one line that says why.
    """
    options = [FORMAT, text_column, tokenizer.eos_token_id]
    key = json.dumps([content_digest(place, field), tokenizer_digest(tokenizer), options])

    def make() -> Arrays:
        documents = read_documents(place, field, text_column)
        ids, offsets, _ = encode(documents, tokenizer, None, empty=tokenizer.eos_token_id)
        return Arrays({"tokens": pack(ids, offsets, tokenizer.eos_token_id)}, {"num_documents": len(documents)})

    found = load_or_make(f"packed-{hashlib.sha256(key.encode()).hexdigest()[:32]}", make)
    tokens = found.arrays["tokens"]
    remarks = [f"{place}: {len(tokens):,} tokens of {found.about['num_documents']:,} documents"]
    if found.fault is not None:
        remarks.append(f"every process tokenises {place} anew: {found.fault}; set AMPSWEEP_CACHE to a folder that can")
    return tokens, remarks
