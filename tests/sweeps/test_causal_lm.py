"""The script for language models: its flags, what it refuses at once."""

from pathlib import Path
from typing import Any

import pytest

from sweeps import main
from sweeps.causal_lm import sweep
from trainables.language.inputs import check_text_inputs
from trainables.language.settings import CAUSAL_LM


def script(*flags: str) -> Any:
    """The script's exit code."""
    with pytest.raises(SystemExit) as ended:
        main(sweep, flags, settings=CAUSAL_LM, check=check_text_inputs)
    return ended.value.code


def test_it_runs_without_arguments_and_every_hyperparameter_is_a_flag(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert script("--dry-run") == 0
    assert "8 trials of 4 configurations, at most 240 steps each" in capsys.readouterr().out
    text = tmp_path / "a.txt"
    text.write_text("a text")
    flags = ("--train-file", str(text), "--context", "32", "--hidden", "choice:64,128", "--lora-rank", "4")
    assert script("--dry-run", *flags) == 0
    out = capsys.readouterr().out
    assert "context=32" in out
    assert "hidden=128" in out
    assert f"train_file={text}" in out
    rows = tmp_path / "b.jsonl"
    rows.write_text('{"content": "another"}\n')  # its only column, whatever the other file's is called
    assert script("--dry-run", "--train-file", str(text), "--val-file", str(rows)) == 0
    assert script("--dry-run", "--train-file", str(text), "--val-file", str(rows), "--text-column", "content") == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--train-file", "no.txt"), "error: --train-file: must be an existing file, got 'no.txt'; check the path\n"),
        (("--context", "1"), "error: --context: must be a whole number of at least 2, got 1; "),
        (("--lora-dropout", "1"), "error: --lora-dropout: must be a number from 0 to below 1, got 1; "),
        (
            ("--model", "name", "--hidden", "64"),
            "error: --hidden: must be left out where a model is given, which has its own, got 64; leave it out\n",
        ),
        (("--modle", "x"), "error: --modle: must be a known flag, got '--modle'; "),
    ],
)
def test_bad_input_is_refused_at_once(
    flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert script(*flags, "--storage", str(tmp_path / "runs")) == 2
    assert capsys.readouterr().err.startswith(message)
    assert not (tmp_path / "runs").exists()
