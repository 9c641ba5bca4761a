"""What the confirmed arms came to, from journals written by hand."""

from pathlib import Path
from typing import Any

import pytest
from journals import arm, run, timing, write_sweep
from rich.console import Console

from analysis import load
from analysis.arms_tables import arms_note, arms_tables


def test_an_arm_is_timed_in_blocks_and_scored_in_full_runs(tmp_path: Path) -> None:
    records = [
        run("a", 1, "fp32", 0.8, val_loss=0.5),
        run("a", 2, "fp32", 0.9, val_loss=0.3),
        run("a", 1, "bf16-mixed", 0.7, val_loss=0.6),
        run("a", 2, "bf16-mixed", 0.1, val_loss=9.0, status="diverged"),
    ]
    slow, fast = arm("fp32", [4.0, 4.0], route="default"), arm("bf16-mixed", [2.0, 3.0, 2.0], route="channels_last")
    copy = arm("fp32", [400.0], is_copy=True, route="default")
    blocks = [timing("a", seed, [slow, fast, copy]) for seed in (1, 2)]
    failed = timing("a", 3, [arm("fp32", [900.0])], status="errored")
    results = load(write_sweep(tmp_path / "s", records, [*blocks, failed]))
    fp32, bf16 = results.arms.to_dict("records")
    assert (fp32["precision"], fp32["route"], fp32["num_timed"], fp32["num_runs"]) == ("fp32", "default", 2, 2)
    assert (fp32["step_ms"], fp32["samples_per_s"], fp32["peak_memory_bytes"]) == (4.0, 16000.0, 1000)
    assert (fp32["metric"], fp32["value"], fp32["val_loss"]) == ("val_accuracy", pytest.approx(0.85), 0.4)
    assert (bf16["precision"], bf16["route"], bf16["step_ms"]) == ("bf16-mixed", "channels_last", 2.0)
    assert (bf16["num_runs"], bf16["value"]) == (1, 0.7)


def test_what_was_not_measured_is_missing(tmp_path: Path) -> None:
    results = load(
        write_sweep(tmp_path / "s", [run("a", 1, "fp32", 0.8)], [timing("a", 1, [arm("bf16-mixed", [2.0])])])
    )
    fp32, bf16 = results.arms.set_index("precision").loc[["fp32", "bf16-mixed"]].isna().to_dict("records")
    assert (fp32["step_ms"], fp32["route"], fp32["value"], bf16["step_ms"], bf16["value"]) == (
        True,
        True,
        False,
        False,
        True,
    )
    assert list(results.arms["num_timed"]) == [0, 1]
    assert load(write_sweep(tmp_path / "none", [])).arms.empty


def test_the_table_names_each_arm_s_route(tmp_path: Path) -> None:
    arms = [
        arm("fp32", [4.0], route="channels_last+onednn", kernel="oneDNN brg:a, MKL SGEMM, oneDNN b"),
        arm("fp32", [9.0], route="default", is_default=True),
        arm("bf16-mixed", [2.0], route="channels_last"),
    ]
    results = load(write_sweep(tmp_path / "s", [run("a", 1, "fp32", 0.8, val_loss=0.5)], [timing("a", 1, arms)]))
    console = Console(width=80, record=True, file=(tmp_path / "shown").open("w"))
    console.print(*arms_tables(results))
    *header, _, a, b, c, d = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert header == ["route step ms val_loss", "precision libraries samples/s memory val_accuracy"]
    assert [a, b, c, d] == [
        "fp32 channels_last+onednn 4 1 KiB 0.5",
        "oneDNN, MKL 16,000 0.8",
        "bf16-mixed channels_last 2 1 KiB -",
        "- 32,000 -",
    ]


def test_blocks_that_other_work_disturbed_are_left_out_where_there_are_others(tmp_path: Path) -> None:
    def block(seed: int, disturbed: bool, *arms: tuple[str, float]) -> dict[str, Any]:
        return timing("a", seed, [arm(name, [ms]) for name, ms in arms], contended=disturbed)

    records = [
        block(1, True, ("fp32", 90.0), ("bf16-mixed", 50.0)),
        block(2, True, ("fp32", 80.0)),
        block(3, False, ("fp32", 4.0)),
    ]
    results = load(write_sweep(tmp_path / "s", [run("a", 1, "fp32", 0.8)], records))
    fp32, bf16 = results.arms.to_dict("records")
    assert (fp32["step_ms"], fp32["num_timed"], fp32["num_contended"]) == (4.0, 3, 2)
    assert (bf16["step_ms"], bf16["num_timed"], bf16["num_contended"]) == (50.0, 1, 1)
    assert "other work disturbed are left out" in arms_note(results)
    shown = str(list(arms_tables(results)[0].columns[2].cells))
    assert "50*" in shown
    assert "4*" not in shown
    clean = load(write_sweep(tmp_path / "clean", [], [block(1, False, ("fp32", 4.0))]))
    assert "disturbed" not in arms_note(clean)
