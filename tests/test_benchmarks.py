"""The benchmarks run, and what they check about the work that they compare holds and can fail."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis import load

SCRIPTS = sorted(path.stem for path in (Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_can_be_imported(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")


def test_our_loop_and_the_one_by_hand_train_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import loop

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        loop.check_equal_work()
        monkeypatch.setattr(loop, "RATE", 2 * loop.RATE)  # of ours alone
        with pytest.raises(SystemExit, match="not the same work"):
            loop.check_equal_work()
    finally:
        torch.set_num_threads(threads)


def test_loaded_figures_are_compared(tmp_path: Path) -> None:
    from benchmarks.load import check_ours, write_ours

    figures = np.random.default_rng(0).random((3, 2, 4))
    history = load(write_ours(tmp_path / "ours", figures)).history
    check_ours(history, figures)
    with pytest.raises(SystemExit, match="our figures"):
        check_ours(history, np.nextafter(figures, 2))
    with pytest.raises(SystemExit, match="types"):
        check_ours(history.astype({"step": "int64"}), figures)
