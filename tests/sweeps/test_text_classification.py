"""The script that fine-tunes on texts: its flags, what it refuses before anything starts, and a sweep of it."""

import shlex
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from sweeps import run
from sweeps.engine.cli import main
from sweeps.engine.flags import build_parser, parse
from sweeps.engine.hyperparameter_flags import flag_of
from sweeps.engine.sweep import Sweep, SweepError
from sweeps.search.domains import Choice, LogUniform
from sweeps.text_classification import sweep as declared
from trainables.hyperparameters import RESERVED
from trainables.language.inputs import check_labelled_inputs
from trainables.language.settings import TEXT_CLASSIFICATION

NEEDED = "--model encoder --train-file train.tsv --val-file dev.tsv"


def parsed(words: str) -> Sweep:
    return parse(declared, shlex.split(words), settings=TEXT_CLASSIFICATION)


def test_each_hyperparameter_is_a_flag_that_takes_a_constant_or_a_domain() -> None:
    sweep = parsed(
        f"{NEEDED} --learning-rate loguniform:1e-5:1e-3 --batch-size 16 --lora-rank choice:4,8 --text-column 0 "
        "--gradient-checkpointing --label-column mood --max-length 64 --space hidden=3"
    )
    assert sweep.space["learning_rate"] == LogUniform(1e-5, 1e-3)
    assert sweep.space["lora_rank"] == Choice([4, 8])
    given = {"model": "encoder", "train_file": "train.tsv", "val_file": "dev.tsv", "batch_size": 16, "text_column": 0}
    given |= {"gradient_checkpointing": True, "label_column": "mood", "max_length": 64, "hidden": 3}
    assert sweep.space.items() >= given.items()
    assert sweep.space["lr_schedule"] == "linear"  # the script's own
    assert parsed(f"{NEEDED} --gradient-checkpointing choice:true,false").space["gradient_checkpointing"] == Choice(
        [True, False]
    )


def test_help_explains_each_hyperparameter() -> None:
    shown = build_parser(declared, settings=TEXT_CLASSIFICATION).format_help()
    assert all(f"  {flag_of(name)} " in shown for name in (*RESERVED, *TEXT_CLASSIFICATION))
    assert "--num-trials" in shown


@pytest.fixture
def folder(text_files: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data, models that lack something, and files that cannot be used."""
    monkeypatch.chdir(text_files)
    (text_files / "encoder").symlink_to(encoder_folder)
    for name, files in {
        "bare": (),
        "weightless": ("config.json",),
        "mute": ("config.json", "model.safetensors"),
    }.items():
        (text_files / name).mkdir()
        for file in files:
            (text_files / name / file).symlink_to(encoder_folder / file)
    contents = {
        "empty.tsv": "",
        "header.csv": "text,label\ngood,1\nbad,0\nfilm,1\nnot,0\n",
        "unseen.tsv": "good\t1\nbad\t7\n",
    }
    contents["malformed.csv"] = 'text,label\ngood,1\n"bad" film,0\n'
    for name, content in contents.items():
        (text_files / name).write_text(content)
    return text_files


REFUSED = [
    # What is typed beside NEEDED (a flag given again is refused, so it is left out there), and what is told.
    ("--model encoder --train-file train.tsv", "--val-file: must be given, got nothing; give validation data"),
    ("", "--model: must be given, got nothing; give the pretrained model"),
    (
        f"{NEEDED} --text-column body",
        "--text-column: must be a column of train.tsv (0: 'the film was bad', 1: '0' but no h",
    ),
    (
        "--model encoder --train-file header.csv --val-file dev.tsv --label-column mood",
        "--label-column: must be a column of header.csv (text, label), got 'mood'",
    ),
    (
        "--model encoder --train-file empty.tsv --val-file dev.tsv",
        "--train-file: empty.tsv must hold at least one example",
    ),
    (
        "--model encoder --train-file none.tsv --val-file dev.tsv",
        "--train-file: must be an existing file, got 'none.tsv'; check the path",
    ),
    (
        "--model encoder --train-file train.tsv --val-file unseen.tsv",
        "--val-file: line 2 of unseen.tsv must have a label that training has (0, 1), got '7'",
    ),
    (
        "--model encoder --train-file malformed.csv --val-file dev.tsv",
        "--train-file: line 3 of malformed.csv must begin a well-formed row",
    ),
    (
        "--model weightless --train-file train.tsv --val-file dev.tsv",
        "--model: the folder must hold weights (*.safetensors or *.bin), got 'weightless'",
    ),
    ("--model mute --train-file train.tsv --val-file dev.tsv", "--model: the folder must hold a tokenizer, got 'mute'"),
    (
        "--model bare --train-file train.tsv --val-file dev.tsv",
        "--model: the folder must hold config.json and weights, got 'bare'",
    ),
    (
        "--model ./none --train-file train.tsv --val-file dev.tsv",
        "--model: must be an existing folder or a name on the hub, got './none'",
    ),
    (f"{NEEDED} --lora-rank choice:4,-1", "--lora-rank: must be a whole number of at least 0, got -1; see --help"),
    (f"{NEEDED} --lora-dropout uniform:0:1", "--lora-dropout: must be a number from 0 to below 1, got 1.0; see --help"),
    (f"{NEEDED} --max-length 8.5", "--max-length: must be a whole number of at least 1, got 8.5"),
    (f"{NEEDED} --gradient-checkpointing yes", "--gradient-checkpointing: must be true or false, got 'yes'"),
    (f"{NEEDED} --learning-rate loguniform:-1:1", "--learning-rate: loguniform.low: must be a finite number above 0"),
    (f"{NEEDED} --batch-size choice:0,8", "--batch-size: must be a whole number of at least 1, got 0"),
    (f"{NEEDED} --batch-size 8 --space batch_size=16", "--space: must name each hyperparameter once"),
    (
        f"{NEEDED} --learning-rat 1",
        "--learning-rat: must be a known flag, got '--learning-rat'; did you mean '--learning-rate'?",
    ),
]


@pytest.mark.parametrize(("words", "told"), REFUSED)
def test_bad_input_is_one_line_before_anything_starts(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str, told: str
) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as raised:
        main(declared, shlex.split(words), settings=TEXT_CLASSIFICATION, check=check_labelled_inputs)
    out, err = capsys.readouterr()
    assert (raised.value.code, out) == (2, "")
    assert err.startswith(f"error: {told}")
    assert err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_points_may_bring_what_the_space_leaves_out(folder: Path) -> None:
    (folder / "points.jsonl").write_text('{"model": "encoder", "train_file": "train.tsv", "val_file": "dev.tsv"}\n')
    assert parsed("--points points.jsonl").points == "points.jsonl"
    with pytest.raises(SweepError, match="--model: must be given"):
        parsed("--train-file train.tsv")


@pytest.mark.ray
def test_a_search_with_relative_paths_runs_and_says_once_what_was_truncated(ray_address: str, folder: Path) -> None:
    shown = StringIO()
    with (folder / "train.tsv").open("a") as file:
        file.write("very " * 30 + "good\t1\n")
    words = f"{NEEDED} --num-trials 2 --max-steps 2 --report-every-steps 2 --batch-size 16 --cpus-per-trial 1.5"
    results = run(parsed(f"{words} --stage search --address {ray_address}"), Console(file=shown, width=200))
    trials = results.trials.query("stage == 'search'")
    assert dict(zip(trials["precision"], trials["status"], strict=True)) == dict.fromkeys(
        ("fp32", "bf16-mixed"), "completed"
    )
    assert (trials["effective_precision"] == trials["precision"]).all()
    assert set(trials["config/train_file"]) == {"train.tsv"}
    assert trials[["val_accuracy", "val_macro_f1"]].notna().all(axis=None)
    assert shown.getvalue().count("train.tsv: 1 of 65 texts were truncated to 24 tokens") == 1
