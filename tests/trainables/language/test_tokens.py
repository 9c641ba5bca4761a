"""Tokens on disk: what they are, and how often they are made."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.language import tokens
from trainables.language.cache import Arrays, load_or_make
from trainables.language.models import load_tokenizer
from trainables.language.tokens import Tokens, encode, tokenize, tokenizer_digest


@pytest.fixture
def tokenizer(encoder_folder: Path) -> Any:
    return load_tokenizer(str(encoder_folder))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], int]:
    """How often texts were really tokenised, in this process and its forks; each process begins without any memory."""
    log = tmp_path / "made"
    log.touch()

    def count(texts: Any, *options: Any) -> Any:
        with log.open("a") as file:
            file.write(".")
        return encode(texts, *options)

    monkeypatch.setattr(tokens, "encode", count)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    tokens._tokenize.cache_clear()
    return lambda: log.stat().st_size


def of(folder: Path, tokenizer: Any, max_length: int | None = None, name: str = "train.tsv", **columns: Any) -> Tokens:
    tokens._tokenize.cache_clear()  # as another process would find it
    return tokenize(str(folder / name), "train_file", tokenizer, max_length, labelled=True, **columns)


def in_forks(num: int, run: Callable[[], object]) -> None:
    """Runs it in so many forks at once; each must end well."""
    children = []
    for _ in range(num):
        child = os.fork()
        if child == 0:
            try:
                run()
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * num


def test_tokens_are_the_tokenizer_s_own(text_files: Path, tokenizer: Any) -> None:
    lines = [line.split("\t") for line in (text_files / "train.tsv").read_text().splitlines()]
    found = of(text_files, tokenizer)
    each = [found.ids[a:b].tolist() for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)]
    assert each == [tokenizer(text)["input_ids"] for text, _ in lines]
    assert [found.label_names[number] for number in found.labels] == [label for _, label in lines]
    assert (len(found), found.label_names, found.label_lines) == (64, ("0", "1"), (1, 2))
    assert found.lengths.tolist() == list(map(len, each))
    assert isinstance(found.ids, np.memmap)
    assert not found.ids.flags.writeable
    assert found.remarks == (
        f"{text_files / 'train.tsv'}: 64 texts in column 0, 2 labels in column 1; its first row is no header",
    )


def test_texts_that_are_too_long_keep_their_end_token_and_are_counted(text_files: Path, tokenizer: Any) -> None:
    found = of(text_files, tokenizer, max_length=7)
    whole = of(text_files, tokenizer).lengths
    assert found.lengths.tolist() == np.minimum(whole, 7).tolist()
    assert set(found.ids[found.offsets[1:] - 1].tolist()) == {3}
    assert f"{int((whole > 7).sum())} of 64 texts were truncated to 7 tokens" in found.remarks[1]


def test_chunks_join_and_a_text_without_tokens_is_one_of_padding(
    encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    monkeypatch.setattr(tokens, "CHUNK", 2)
    ids, offsets, num_truncated = encode(["good", "", "very bad film"], tokenizer, 4)
    assert ids.tolist() == [2, 4, 3, 2, 3, 2, 7, 5, 3]
    assert (offsets.tolist(), num_truncated) == ([0, 3, 5, 9], 1)
    tokenizer.backend_tokenizer.post_processor = None
    ids, offsets, _ = encode(["good", "", "very bad film"], tokenizer, 2)
    assert (ids.tolist(), offsets.tolist()) == ([4, 0, 7, 5], [0, 1, 2, 4])


def test_eight_trials_at_once_tokenise_once_and_later_ones_never(
    text_files: Path, tokenizer: Any, made: Callable[[], int]
) -> None:
    in_forks(8, lambda: of(text_files, tokenizer))
    assert made() == 1
    (folder,) = (path for path in (text_files / "cache").iterdir() if path.is_dir())
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}
    in_forks(2, lambda: of(text_files, tokenizer))
    assert made() == 1
    assert {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_what_tokens_depend_on_makes_others(text_files: Path, tokenizer: Any, made: Callable[[], int]) -> None:
    first = of(text_files, tokenizer)
    os.utime(text_files / "train.tsv", ns=(1, 1))
    (text_files / "copy.tsv").write_bytes((text_files / "train.tsv").read_bytes())
    assert of(text_files, tokenizer).ids.tolist() == of(text_files, tokenizer, name="copy.tsv").ids.tolist()
    assert made() == 1
    of(text_files, tokenizer, max_length=5)
    of(text_files, tokenizer, label_column=1)
    with (text_files / "train.tsv").open("a") as file:
        file.write("bad\t0\n")
    assert len(of(text_files, tokenizer)) == len(first) + 1
    assert made() == 4


def test_the_digest_is_of_what_a_tokenizer_knows_not_of_how_it_was_called(encoder_folder: Path) -> None:
    from transformers import AutoTokenizer

    first, second, third, fourth = (AutoTokenizer.from_pretrained(encoder_folder) for _ in range(4))
    second(["very good"], truncation=True, max_length=3, padding="max_length")
    third.add_tokens(["awful"])
    fourth.truncation_side = "left"
    assert tokenizer_digest(first) == tokenizer_digest(second)
    assert len({tokenizer_digest(each) for each in (first, third, fourth)}) == 3


@pytest.mark.parametrize("damage", ["cut", "gone", "other", "torn"])
def test_damaged_files_are_made_again(text_files: Path, tokenizer: Any, made: Callable[[], int], damage: str) -> None:
    whole = of(text_files, tokenizer).ids.tolist()
    (folder,) = (path for path in (text_files / "cache").iterdir() if path.is_dir())
    if damage == "cut":
        (folder / "ids.npy").write_bytes((folder / "ids.npy").read_bytes()[:-5])
    elif damage == "gone":
        (folder / "offsets.npy").unlink()
    elif damage == "other":
        np.save(folder / "ids.npy", np.zeros(3, np.uint16))
    else:
        (folder / "about.json").write_text("{")
    for _ in range(2):
        assert of(text_files, tokenizer).ids.tolist() == whole
    assert made() == 2
    assert len(list((text_files / "cache").iterdir())) == 2  # the folder and its lock: nothing half-made stays


def test_a_process_that_dies_over_it_blocks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMPSWEEP_CACHE", str(tmp_path / "cache"))
    child = os.fork()
    if child == 0:
        load_or_make("key", lambda: os.kill(os.getpid(), signal.SIGSTOP))  # type: ignore[arg-type, return-value]
        os._exit(1)
    os.waitpid(child, os.WUNTRACED)  # it has stopped, with the lock in its hand
    waiting = os.fork()
    if waiting == 0:
        load_or_make("key", lambda: Arrays({"a": np.arange(3)}, {}))
        os._exit(0)
    time.sleep(0.05)
    assert os.waitpid(waiting, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert os.waitpid(waiting, 0) == (waiting, 0)
    assert load_or_make("key", lambda: pytest.fail("made again")).arrays["a"].tolist() == [0, 1, 2]


def test_a_cache_that_cannot_be_written_is_said_and_done_without(
    text_files: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = of(text_files, tokenizer).ids.tolist()
    monkeypatch.setenv("AMPSWEEP_CACHE", str(text_files / "train.tsv"))
    found = of(text_files, tokenizer)
    assert found.ids.tolist() == whole
    assert "every process tokenises" in found.remarks[-1]
    assert "cannot be written" in found.remarks[-1]


def test_plain_texts_need_no_labels(text_files: Path, tokenizer: Any) -> None:
    (text_files / "a.txt").write_text("good film\nbad\n")
    found = tokenize(str(text_files / "a.txt"), "train_file", tokenizer, None)
    assert found.ids.tolist() == [2, 4, 6, 3, 2, 5, 3]
    assert (len(found.labels), found.label_names) == (0, ())
