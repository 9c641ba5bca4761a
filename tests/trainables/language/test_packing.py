"""Documents packed into blocks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.language import packing
from trainables.language.documents import python_sources, read_documents
from trainables.language.packing import (
    END_OF_BYTES,
    Blocks,
    byte_tokens,
    join_blocks,
    pack,
    pack_bytes,
    packed_tokens,
)
from trainables.loading import TaskError

END = 9


@given(st.lists(st.lists(st.integers(0, END), min_size=1), min_size=1))
def test_each_document_ends_with_one_end(documents: list[list[int]]) -> None:
    ids = np.array([token for document in documents for token in document])
    offsets = np.cumsum([0, *map(len, documents)])
    expected = [token for d in documents for token in (d if d[-1] == END else [*d, END])]
    assert pack(ids, offsets, END).tolist() == expected


@given(st.lists(st.text()), st.integers(1, 7))
def test_bytes_come_back_out_of_blocks(documents: list[str], length: int) -> None:
    tokens = pack_bytes([*documents, "x"])
    blocks = Blocks(tokens, length)
    back = torch.cat([blocks[index][0] for index in range(len(blocks))] or [torch.empty(0, dtype=torch.int64)])
    assert len(back) == len(tokens) // length * length
    assert back.tolist() == tokens[: len(back)].tolist()
    texts = tokens[tokens != END_OF_BYTES].astype(np.uint8).tobytes()
    assert texts == "".join([*documents, "x"]).encode("utf-8", "surrogatepass")
    assert np.count_nonzero(tokens == END_OF_BYTES) == len(documents) + 1


def test_blocks_are_gathered_at_once_as_one_by_one() -> None:
    blocks = Blocks(np.arange(23, dtype=np.uint16), 5)
    assert len(blocks) == 4
    at_once, one_by_one = join_blocks(blocks.__getitems__([3, 0])), join_blocks([blocks[3], blocks[0]])
    assert at_once[0].tolist() == [[15, 16, 17, 18, 19], [0, 1, 2, 3, 4]]
    assert all(torch.equal(part, other) for part in at_once for other in one_by_one)
    assert at_once[0].dtype == torch.int64


def test_a_text_file_is_one_document_and_a_table_has_one_in_each_row(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two\\n"}\n')
    assert list(read_documents(str(tmp_path / "a.txt"), "train_file")) == ["one\n\ntwo\n"]
    assert list(read_documents(str(tmp_path / "a.jsonl"), "train_file")) == ["one", "two\n"]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(TaskError, match=r"^val_file: .*empty\.txt must hold text, got none; name a file with text$"):
        read_documents(str(tmp_path / "empty.txt"), "val_file")


def test_python_s_sources_are_the_default_and_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import http.client

    sources = python_sources()
    assert Path(http.client.__file__).read_text(encoding="utf-8") in sources
    tokens = byte_tokens(None, "train_file")
    assert len(tokens) == sum(len(source.encode()) + 1 for source in sources)
    assert byte_tokens(None, "train_file") is tokens
    file = tmp_path / "a.txt"
    file.write_text("one")
    first = byte_tokens(str(file), "train_file")
    assert byte_tokens(str(file), "train_file") is first
    file.write_text("four")
    assert byte_tokens(str(file), "train_file").tolist() == [*b"four", END_OF_BYTES]


def test_tokens_are_made_once_on_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    monkeypatch.setenv("AMPSWEEP_CACHE", str(tmp_path / "cache"))
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<e>": 0, "a": 1, "b": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<e>", pad_token="?")
    place = tmp_path / "a.jsonl"
    place.write_text("\n".join(json.dumps({"text": text}) for text in ("a b", "b <e>", "", "c a")))
    tokens, remarks = packed_tokens(str(place), "train_file", tokenizer)
    assert tokens.tolist() == [1, 2, 0, 2, 0, 0, 3, 1, 0]  # and no padding
    assert remarks == [f"{place}: 9 tokens of 4 documents"]
    monkeypatch.setattr(packing, "encode", None)  # a second making would fail
    assert packed_tokens(str(place), "train_file", tokenizer)[0].tolist() == tokens.tolist()
