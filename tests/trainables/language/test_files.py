"""Texts and labels from files: what is read, what is inferred, and what is refused with its line."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.language.files import read_table
from trainables.language.inputs import check_labelled_inputs
from trainables.language.texts import LabelledTexts, read_labelled, read_texts, sorted_labels
from trainables.loading import TaskError


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def labelled(folder: Path, name: str, content: str | bytes, **columns: Any) -> LabelledTexts:
    return read_labelled(write(folder, name, content), "train_file", **columns)


def pairs(found: LabelledTexts) -> list[tuple[str, str]]:
    return list(zip(found.texts, found.labels, strict=True))


GOOD = [("a good film", "1"), ("bad", "0"), ("so good", "1"), ("worse", "0")]


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    frame = pd.DataFrame(GOOD, columns=["sentence", "label"])
    contents = {
        "a.csv": frame.to_csv(index=False),
        "a.tsv": frame.to_csv(index=False, sep="\t"),
        "a.jsonl": frame.to_json(orient="records", lines=True),
        "A.CSV": "\ufeff" + frame.to_csv(index=False).replace("\n", "\r\n"),
    }
    for name, content in contents.items():
        found = labelled(tmp_path, name, content)
        assert pairs(found) == GOOD
        assert (found.text_column, found.label_column) == ("sentence", "label")
    frame.assign(label=frame["label"].astype(int)).to_parquet(tmp_path / "a.parquet")
    assert pairs(read_labelled(str(tmp_path / "a.parquet"), "train_file")) == GOOD
    found = read_texts(write(tmp_path, "a.txt", "a good film\r\n\n bad\nno end"), "train_file")
    assert (found.texts, list(found.table.lines)) == (["a good film", " bad", "no end"], [1, 3, 4])


def test_without_a_header_two_columns_are_told_apart_by_their_values(tmp_path: Path) -> None:
    rows = "".join(f"{text}\t{label}\n" for text, label in GOOD)
    found = labelled(tmp_path, "a.tsv", rows)
    assert pairs(found) == GOOD
    assert (found.text_column, found.label_column, found.table.has_header) == (0, 1, False)
    swapped = labelled(tmp_path, "b.csv", "".join(f"{label},{text}\n" for text, label in GOOD))
    assert (swapped.text_column, swapped.label_column) == (1, 0)
    assert pairs(swapped) == GOOD


@pytest.mark.parametrize(
    ("first", "asked", "has_header"),
    [
        ("Text\tkind", (), True),
        ("text\t1", (), False),  # a number names no column
        ("q\tanswer", (), False),
        ("q\tanswer", ("answer",), True),
        ("q\tanswer", (0, 1), False),
        ("q\t2020", ("q",), True),
        ("Q\t2020", ("q",), False),
    ],
)
def test_a_header_is_known_by_usual_names_or_those_asked_for(
    tmp_path: Path, first: str, asked: tuple[Any, ...], has_header: bool
) -> None:
    table = read_table(write(tmp_path, "a.tsv", f"{first}\nx\t1\n"), "train_file", asked)
    assert table.has_header is has_header
    assert len(table) == 2 - has_header


def test_quotes_swallow_no_lines_of_tsv_and_join_those_of_csv(tmp_path: Path) -> None:
    found = labelled(tmp_path, "a.tsv", '"so it goes\t1\nthe "end\t0\n\nno " more\t1\n"\t0\n')
    assert list(found.texts) == ['"so it goes', 'the "end', 'no " more', '"']
    assert list(found.table.lines) == [1, 2, 4, 5]
    found = labelled(tmp_path, "a.csv", 'text,label\n"two\nlines, and ""more""",1\nplain,0\n')
    assert pairs(found) == [('two\nlines, and "more"', "1"), ("plain", "0")]
    assert list(found.table.lines) == [2, 4]


CELL = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(CELL, st.sampled_from(["a", "b"])), min_size=1, max_size=6))
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    frame = pd.DataFrame(rows, columns=["text", "label"])
    assert pairs(labelled(folder, "a.csv", frame.to_csv(index=False))) == rows
    lines = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows)
    assert pairs(labelled(folder, "a.tsv", lines)) == rows
    written = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows]
    assert pairs(labelled(folder, "a.jsonl", "\n".join(written))) == rows


def test_labels_are_sorted_as_what_they_are() -> None:
    assert sorted_labels(["10", "9", "-1", "9"]) == ["-1", "9", "10"]
    assert sorted_labels(["b", "10", "9"]) == ["10", "9", "b"]


REFUSED = [
    ("a.tsv", b"", {}, "train_file: {} must hold at least one example, got none; name a file with examples"),
    ("a.csv", b"text,label\n", {}, "train_file: {} must hold at least one example"),
    ("a.jsonl", b"\n", {}, "train_file: {} must hold at least one example"),
    ("a.tsv", b"x\t1\ny\t0\nz 1\n", {}, "train_file: line 3 of {} must have 2 cells, as its first row, got 1; correct"),
    ("a.csv", b'text,label\nx,1\n"y" z,0\n', {}, "train_file: line 3 of {} must begin a well-formed row, got ',' exp"),
    ("a.csv", b'text,label\nx,1\n"y,0\nz,1\n', {}, "train_file: line 3 of {} must begin a well-formed row, got unexp"),
    ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": }\n', {}, "train_file: line 2 of {} must be JSON, got Expecting"),
    ("a.jsonl", b'{"text": "x", "label": 1}\n[1]\n', {}, "train_file: line 2 of {} must be an object, got [1]; wr"),
    ("a.tsv", b"x\t1\ny\xff\t0\n", {}, "train_file: line 2 of {} must be UTF-8, got byte 0xff; convert the file"),
    ("a.parquet", b"none", {}, "train_file: {} must be a Parquet file, got "),
    ("a.xls", b"none", {}, "train_file: must end in one of .csv, .tsv, .jsonl, .parquet, .txt, got '{}'; rename"),
    ("a.txt", b"x\ny\n", {}, "train_file: {} must have a column of labels, got only 'text'; add one"),
    ("a.csv", b"text,label\nx,1\n", {"text_column": "body"}, "text_column: must be a column of {} (text, label), got"),
    ("a.csv", b"text,label\nx,1\n", {"label_column": 2}, "label_column: must be a column of {} (text, label), got 2;"),
    ("a.tsv", b"x\t1\n", {"label_column": "l"}, "label_column: must be a column of {} (0: 'x', 1: '1' but no header)"),
    ("a.csv", b"text,label\nx,1\n", {"label_column": 0, "text_column": 0}, "label_column: must be another column of"),
    ("a.tsv", b"x\t1\ny\t2\n", {}, "text_column: must be given, since the columns of {} leave doubt (0: 'x', 1: '1')"),
    ("a.csv", b"a,b,text\n1,2,x\n", {}, "label_column: must be given, since the columns of {} leave doubt (a, b, text"),
    (
        "a.csv",
        b"text,label\nx,1\ny,\n",
        {},
        "train_file: line 3 of {} must hold a label, a word or a whole number, got",
    ),
    ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": "y"}\n', {}, "train_file: line 2 of {} must hold a label, a wo"),
    ("a.jsonl", b'{"text": "x", "label": 1}\n{"label": 0}\n', {}, "train_file: line 2 of {} must hold text in column"),
    ("a.jsonl", b'{"text": "x", "label": 0.5}\n', {}, "train_file: line 1 of {} must hold a label, a word or a whole"),
    ("a.jsonl", b'{"text": "x \\ud83d", "label": 1}\n', {}, "train_file: line 1 of {} must hold whole characters in"),
]


@pytest.mark.parametrize(("name", "content", "columns", "told"), REFUSED)
def test_what_cannot_be_used_is_told_with_its_line(
    tmp_path: Path, name: str, content: bytes, columns: dict[str, Any], told: str
) -> None:
    with pytest.raises(TaskError) as raised:
        labelled(tmp_path, name, content, **columns)
    assert told.format(tmp_path / name) in str(raised.value)


def test_an_error_shows_the_beginning_of_a_long_value(tmp_path: Path) -> None:
    with pytest.raises(TaskError) as raised:
        labelled(tmp_path, "a.jsonl", json.dumps({"text": ["word"] * 5000, "label": 1}))
    assert len(str(raised.value)) < 200 + len(str(tmp_path))
    write(tmp_path, "train.tsv", "".join(f"{'a' * 5000}\t{row % 2}\n" for row in range(4)))
    config = {name: str(tmp_path / "train.tsv") for name in ("train_file", "val_file")}
    with pytest.raises(TaskError, match="must hold two labels") as raised:
        check_labelled_inputs({**config, "label_column": 0, "text_column": 1})
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize("columns", [{}, {"text_column": 0, "label_column": 1}])
def test_a_header_of_unusual_names_is_no_example(tmp_path: Path, columns: dict[str, Any]) -> None:
    rows = "".join(f"{text} {row},{'bad' if row % 2 else 'good'}\n" for row, text in enumerate("stuvwxyz"))
    config = {name: write(tmp_path, "a.csv", "tweet,mood\n" + rows) for name in ("train_file", "val_file")}
    with pytest.raises(TaskError) as raised:
        check_labelled_inputs(config | columns)
    assert str(raised.value).startswith(
        f"train_file: the first row of {config['train_file']} must be an example, or a header that names the columns "
        "asked for, got 'mood' for a label, which no other row has; name them by text_column and label_column, or "
    )
    check_labelled_inputs(config | {"text_column": "tweet", "label_column": "mood"})
    write(tmp_path, "a.csv", rows)
    check_labelled_inputs(config | columns)
    write(tmp_path, "a.csv", f"s,unique\n{rows}t,other\n")
    check_labelled_inputs(config | columns)  # rare labels are no header


@pytest.mark.parametrize(
    ("train", "val", "told"),
    [
        ("x\t1\ny\t1\nz\t1\n", "x\t1\n", "train_file: must hold two labels at least, got 1; check label_column"),
        (
            "x\t1\ny\t0\nz\t1\nu\t0\n",
            "x\t1\ny\t2\n",
            "val_file: line 2 of {} must have a label that training has (0, 1), got '2'",
        ),
        ("x\t1\ny\t0\nz\t1\nu\t0\n", "x\ty\t1\n", "val_file"),
    ],
)
def test_the_two_files_must_fit(tmp_path: Path, train: str, val: str, told: str) -> None:
    config = {"train_file": write(tmp_path, "train.tsv", train), "val_file": write(tmp_path, "dev.tsv", val)}
    with pytest.raises(TaskError) as raised:
        check_labelled_inputs(config)
    assert str(raised.value).startswith(told.format(config["val_file"]))


def test_a_name_that_is_no_file_is_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library ``datasets`` is played, since it needs the hub; that it is not installed is real where it is not."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        TaskError, match=r"^train_file: must be an existing file, or a data set of the hub.*pip install"
    ):
        read_texts("stanfordnlp/imdb", "train_file")
    asked: list[Any] = []

    def load_dataset(*names: Any, split: str) -> Any:
        asked.append((*names, split))
        if names[0] == "none":
            raise ConnectionError("no\nroute")
        rows = {"sentence": ["x", "y"], "label": [0, 1]}
        return type(
            "Played",
            (),
            {"column_names": list(rows), "__getitem__": lambda self, name: rows[name], "__len__": lambda self: 2},
        )()

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert pairs(read_labelled("nyu-mll/glue,sst2", "val_file")) == [("x", "0"), ("y", "1")]
    read_texts("imdb:test", "train_file")
    assert asked == [("nyu-mll/glue", "sst2", "validation"), ("imdb", None, "test")]
    with pytest.raises(
        TaskError, match=r"\(split 'train'\), got ConnectionError: no route .* for 'none'; check the name"
    ):
        read_texts("none", "train_file")
