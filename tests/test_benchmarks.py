"""The benchmarks run, and what they check about the work that they compare holds and can fail."""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis import load
from trainables.spec import TrialSpec

ROOT = Path(__file__).parents[1]
DOCS = "".join((ROOT / name).read_text() for name in ("README.md", "Makefile", "benchmarks/README.md"))
COMMANDS = sorted(set(re.findall(r"-m benchmarks\.(\w+)", DOCS)))


def test_every_benchmark_is_a_command_that_the_docs_name() -> None:
    scripts = [path for path in (ROOT / "benchmarks").glob("*.py") if 'if __name__ == "__main__"' in path.read_text()]
    packages = [path.parent for path in (ROOT / "benchmarks").glob("*/__main__.py")]
    assert sorted(path.stem for path in [*scripts, *packages]) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_benchmark_loads_and_can_be_run(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"benchmarks.{name}.__main__")
    assert callable(module.main)


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


def test_the_time_of_slots_is_told_by_the_clocks_of_their_trials() -> None:
    from benchmarks.orchestration import figures_of

    def trial(process: float, began: float, ended: float) -> dict[str, float]:
        return {"process": process, "began": began, "ended": ended}

    waited = [trial(1, 110.0, 110.0), trial(2, 110.5, 110.5)]
    worked = [trial(1, 110.6, 111.6), trial(2, 110.7, 111.7), trial(1, 111.9, 112.9), trial(2, 111.8, 112.8)]
    warm = figures_of([*worked, *waited], called=100.0, ideal=2.0)
    assert warm == pytest.approx({"time": 1.2, "gap_ms": 200.0, "gap_90_ms": 300.0, "start_s": 10.5})
    cold = figures_of(worked, called=100.0, ideal=2.0)
    assert cold == pytest.approx({"time": 1.15, "gap_ms": 200.0, "gap_90_ms": 300.0, "start_s": 10.7})


@pytest.mark.ray
@pytest.mark.parametrize("number", [0, 1])
def test_slots_are_kept_busy_by_both(ray_address: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.orchestration import OURS, TUNE, run

    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", "1")  # which it would leave behind
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    work = {"seconds": 0.3, "work_s": 0.05, "reports": 2, "cold": False}
    found = run(argparse.Namespace(run=[(OURS, TUNE)[number], "2"], **work))  # SystemExit where a trial is missing
    assert found.keys() == {"time", "gap_ms", "gap_90_ms", "start_s", "whole"}
    assert 1.0 <= found["time"] < found["whole"]
    assert 0 < found["gap_ms"] <= found["gap_90_ms"]


LACKING = ("ray", "pandas", "pyarrow", "rich", "scipy", "sklearn", "wandb", "lightning", "optuna", "torchao")


def test_a_bare_host_gets_a_row_for_every_arm(tmp_path: Path) -> None:
    """The GPU script with tiny shapes on the CPU, without all that a GPU host may lack."""
    lacking = f"import sys; sys.modules.update(dict.fromkeys({LACKING}))"
    script = f"{lacking}; from benchmarks.gpu.__main__ import main; main()"
    words = [sys.executable, "-c", script, "--tiny", "--eager", "--json", str(tmp_path / "gpu.json")]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    rows = {(row["item"], row["arm"]): row for row in found["rows"]}
    assert len(rows) == len(found["rows"])
    assert {row["status"] for row in found["rows"]} == {"measured", "unsupported"}
    outcomes = {row["outcome"] for row in found["rows"] if row["item"] == "liar" and row["status"] == "measured"}
    assert outcomes <= {"caught", "nothing to catch"}
    assert "CPU" in rows["BERT, tiny", "tf32"]["note"]
    for name in ("BERT, tiny", "GPT, tiny"):
        row = rows[name, "fp32"]
        assert row["status"] == "measured"
        assert row["effective"] == "fp32"
        assert row["tokens_per_s"] == pytest.approx(4 * 32 / row["step_ms"] * 1e3)
        assert row["of_matrix_rate"] == pytest.approx(row["flops_per_s"] / rows["matrix", "fp32"]["flops_per_s"])
        # The formula and what dispatch counted differ only in what attention computes anew in backward.
        assert row["flops_per_s"] * row["step_ms"] / 1e3 == pytest.approx(row["flops_counted"], rel=0.05)
    assert "share of the matrix rate" in done.stdout


def test_the_bare_amp_loop_trains_the_same_weights_as_ours() -> None:
    from benchmarks.gpu.models import TINY
    from benchmarks.gpu.profile import top_kernels
    from benchmarks.gpu.steps import Arm, bare_loop, in_force
    from trainables.build import build_loop
    from trainables.ladder import LADDER

    device = torch.device("cpu")

    def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
        return all(map(torch.equal, one.parameters(), other.parameters()))

    for name in ("bf16-mixed", "fp16-mixed"):
        arm = Arm(TINY[1], LADDER[name])  # with dropout
        with in_force(arm):
            ours = build_loop(arm.subject.spec(), arm.precision, device, num_steps=False)
            ours.train(3)
            bare = bare_loop(arm, device)
            bare.train(2)
            assert not same(ours.model, bare.model)
            bare.train(1)
            assert same(ours.model, bare.model)
    with in_force(arm):
        kernels = top_kernels(ours)
    assert {"aten::addmm", "aten::mm"} & {kernel["kernel"] for kernel in kernels}
    assert 0 < sum(kernel["share"] for kernel in kernels) <= 1


def test_the_whole_time_is_an_end_even_for_what_ignores_exceptions() -> None:
    from benchmarks.gpu.plan import LEFT_OUT, Part, run_all
    from benchmarks.gpu.record import Record, Row

    def endless() -> list[Row]:
        while True:
            try:
                time.sleep(1)
            except Exception:
                continue

    def too_large() -> list[Row]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    device = torch.device("cpu")
    record = Record(None, device)
    parts = [
        Part("a", "large", 1.0, 0.1, "a", too_large),
        Part("a", "late", 0.01, 0.1, "late", lambda: [Row("a", "late")]),
        Part("a", "endless", 1.0, 0.0, "endless", endless),
        Part("a", "none", 1.0, 0.1, "none", endless, "no such format"),
        Part("a", "after", 1.0, 0.0, "after", lambda: [Row("a", "after")]),
    ]
    run_all(parts, record, device, 1.0)
    statuses = ["out_of_memory", LEFT_OUT, LEFT_OUT, "unsupported", LEFT_OUT]
    assert [row.status for row in record.rows] == statuses


@pytest.mark.parametrize(("ratio", "met"), [(1.5, False), (1.79, True)])
def test_aims_are_told_by_the_rows_of_their_arms(ratio: float, met: bool) -> None:
    from benchmarks.gpu.aims import missed, reckon
    from benchmarks.gpu.models import BERT, GPT, MLP
    from benchmarks.gpu.record import Row

    subjects = (MLP, BERT, GPT)
    tf32, mixed = Row(BERT.name, "tf32", step_ms=179.0), Row(BERT.name, "bf16-mixed", step_ms=179.0 / ratio)
    lied = Row("liar", "x", outcome="MISSED")
    assert {aim.met for aim in reckon([], subjects)} == {None}
    assert missed([tf32, mixed], subjects, mixed) is not met
    assert not missed([tf32, mixed], subjects, tf32)
    assert [aim.met for aim in reckon([lied, Row("liar", "y", outcome="caught")], subjects) if aim.item == "liar"] == [
        False
    ]


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Flags that name a BERT of two layers with its tokenizer, and files of texts of two words and more."""
    import transformers

    folder = tmp_path_factory.mktemp("encoder")
    words = ["good", "bad", "film", "plot"]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    sizes = {"vocab_size": 9, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=32)).save_pretrained(folder)
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    for name, num in (("train", 24), ("dev", 8)):
        lines = [f"{' '.join(words[: 2 + index % 3])} {words[index % 2]}\t{index % 2}\n" for index in range(num)]
        (folder / f"{name}.tsv").write_text("".join(lines))
    files = ["--train-file", str(folder / "train.tsv"), "--val-file", str(folder / "dev.tsv")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMPSWEEP_CACHE", str(folder / "cache"))
        yield ["--model", str(folder), *files, "--batch-size", "4"]


@pytest.fixture
def fine_tuning(tiny_encoder: list[str]) -> Iterator[TrialSpec]:
    from benchmarks.finetune import make_spec

    model, train_file, val_file = tiny_encoder[1:6:2]
    arguments = {"model": model, "train_file": train_file, "val_file": val_file, "batch_size": 4, "threads": 1}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield make_spec(argparse.Namespace(**arguments), "fp32")
    torch.set_num_threads(threads)


def test_fine_tuning_is_timed_and_whole_epochs_end_at_the_same_accuracy(
    tiny_encoder: list[str], fine_tuning: TrialSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.finetune import BY_HAND, OURS, OURS_TO_TRAINER, TRAINER, main

    few = ["--steps", "1", "--rounds", "1", "--accuracy-seeds", "1", "--precisions", "bf16-mixed", "--threads", "1"]
    main([*tiny_encoder, *few])
    shown = capsys.readouterr().out
    assert "bf16-mixed, 1 turns of 1 steps" in shown
    _, epochs = shown.split("bf16-mixed, an epoch with each of 1 seeds")
    cells = {line.split("│")[1].strip(): line.split("│")[2:7] for line in epochs.splitlines() if line.startswith("│")}
    assert cells.keys() == {BY_HAND, OURS, OURS_TO_TRAINER, TRAINER}
    assert cells[OURS] == cells[BY_HAND]
    assert cells[OURS][3].strip() == "+0.0000"


def test_other_work_than_by_hand_ends_the_benchmark(fine_tuning: TrialSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import finetune, finetuners

    makers = finetune.make_makers(fine_tuning)
    finetune.check_equal_work(fine_tuning, makers)
    monkeypatch.setattr(finetuners, "MAX_NORM", 1e-3)  # of the one by hand alone
    with pytest.raises(SystemExit, match="not the same work in fp32"):
        finetune.check_equal_work(fine_tuning, makers)


def test_a_turn_of_the_trainer_is_on_the_batches_of_the_others(fine_tuning: TrialSpec) -> None:
    """After two steps its weights are those of the loop by hand, up to the order of additions."""
    from benchmarks.finetune import BY_HAND, TRAINER, make_makers

    models = []
    for name in (BY_HAND, TRAINER):
        contestant = make_makers(fine_tuning)[name](fine_tuning)
        contestant.model.set_attn_implementation("eager")  # type: ignore[operator]
        for module in contestant.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # whose draws begin elsewhere in each
        contestant.train(2)
        models.append(contestant.model.state_dict())
    for name, weights in models[0].items():
        torch.testing.assert_close(weights, models[1][name], rtol=0, atol=1e-6)
