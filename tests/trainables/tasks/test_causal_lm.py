"""Language models as tasks: a small GPT on bytes, and pretrained ones with their tokenizers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables.isolation import seed_everything, weights_digest
from trainables.language.packing import byte_tokens
from trainables.loading import TaskError, find_task
from trainables.report import TrialReport
from trainables.spec import Budget, TrialSpec
from trainables.tasks.causal_lm import build
from trainables.trial import run_trial

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TINY: dict[str, Any] = {"num_layers": 1, "hidden": 32, "num_heads": 2, "context": 32}
LEARNING = {"learning_rate": 1e-2, "batch_size": 16, "warmup_frac": 0.1, "lr_schedule": "linear", "max_grad_norm": 1.0}
TEXT = "".join(f"line {number} of a text\n" for number in range(200))


def train(config: dict[str, Any], precision: str = "fp32", steps: int = 4, **fields: Any) -> TrialReport:
    source = find_task("trainables.tasks.causal_lm:build")
    spec = TrialSpec("t", source, config, precision, 3, Budget(max_steps=steps, report_every_steps=steps))
    *_, last = run_trial(replace(spec, **fields))
    assert last.status == "completed", last.status_reason
    return last


def unigram_loss(tokens: "np.ndarray[Any, Any]") -> float:
    """Mean loss of a model that knows how often each token comes, and nothing else."""
    counts = np.unique(tokens, return_counts=True)[1] / len(tokens)
    return float(-(counts * np.log(counts)).sum())


def test_a_small_gpt_learns_more_of_python_than_how_often_bytes_come() -> None:
    report = train({**TINY, **LEARNING, "val_blocks": 100}, steps=120, examples_of="val_loss")
    assert report.metrics["val_loss"] < unigram_loss(byte_tokens(None, "train_file")) - 0.2
    assert report.metrics["val_perplexity"] == pytest.approx(np.exp(report.metrics["val_loss"]))
    assert 0.2 < report.metrics["val_token_accuracy"] < 0.6
    assert report.examples is not None
    assert report.examples.shape == (100,)
    assert report.examples.mean() == pytest.approx(report.metrics["val_loss"])
    assert np.ptp(report.examples) > 0


def test_bf16_computes_nearly_all_of_a_step_in_bf16() -> None:
    report = train({**TINY, "hidden": 64, "num_heads": 1, "batch_size": 4}, "bf16-mixed", steps=1)
    assert report.effective_precision == "bf16-mixed"
    assert report.effective_share is not None
    assert report.effective_share >= 0.9


def test_a_seed_builds_one_model() -> None:
    found = []
    for seed in (1, 1, 2):
        seed_everything(seed)
        found.append(weights_digest(build(TINY).model))
    assert found[0] == found[1] != found[2]


def test_the_last_tenth_validates_where_no_file_does(tmp_path: Path) -> None:
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text(TEXT)
    other.write_text(TEXT[:500])
    num_blocks = (len(TEXT) + 1) // 32
    task = build({**TINY, "train_file": str(one)})
    assert len(task.val_set) == round(num_blocks / 10)  # type: ignore[arg-type]
    assert len(task.train_set) + len(task.val_set) == num_blocks  # type: ignore[arg-type]
    blocks = [bytes(block.tolist()) for data in (task.train_set, task.val_set) for block, _ in data]  # type: ignore[attr-defined]
    assert b"".join(blocks) == TEXT.encode()[: 32 * num_blocks]
    task = build({**TINY, "train_file": str(one), "val_file": str(other)})
    assert (len(task.train_set), len(task.val_set)) == (num_blocks, 501 // 32)  # type: ignore[arg-type]
    thinned = build({**TINY, "train_file": str(one), "val_file": str(other), "val_blocks": 5})
    assert thinned.remarks[-1].startswith("validation takes 5 of 15 blocks")
    picked = [index for index in range(15) for block, _ in thinned.val_set if block.equal(task.val_set[index][0])]  # type: ignore[attr-defined]
    assert picked == [0, 3, 6, 9, 12]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with a tokenizer of words, and a file of documents for it."""
    folder = tmp_path_factory.mktemp("pretrained")
    names = ["<e>", "?", "line", "of", "a", "text", *map(str, range(50))]
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="?")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<e>").save_pretrained(folder)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "vocab_size": 64}
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).save_pretrained(
        folder
    )
    (folder / "documents.jsonl").write_text("".join(json.dumps({"body": line}) + "\n" for line in TEXT.splitlines()))
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMPSWEEP_CACHE", str(tmp_path / "cache"))


def test_a_pretrained_model_goes_on_with_its_own_tokens(pretrained: Path) -> None:
    config = {"model": str(pretrained), "train_file": str(pretrained / "documents.jsonl"), "text_column": "body"}
    task = build(config)
    assert (len(task.train_set), len(task.val_set)) == (45, 5)  # type: ignore[arg-type]  # 200 documents of 6 tokens, by 24
    assert task.train_set[0][0][:7].tolist() == [2, 6, 3, 4, 5, 0, 2]
    assert task.remarks[0] == f"{config['train_file']}: 1,200 tokens of 200 documents"
    whole = train({**config, **LEARNING})
    adapted = train({**config, **LEARNING, "lora_rank": 1})
    assert whole.peak_memory_bytes is not None
    assert adapted.peak_memory_bytes is not None
    assert adapted.peak_memory_bytes < whole.peak_memory_bytes
    untrained = train({**config, **LEARNING, "learning_rate": 0.0}, steps=1).metrics["val_loss"]
    assert whole.metrics["val_loss"] < untrained
    assert adapted.metrics["val_loss"] < untrained


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU attention with dropout is fused")
def test_attention_with_dropout_is_not_fused_on_a_cpu(pretrained: Path) -> None:
    """Fused, PyTorch 2.13 computes part of its backward pass in FP32 under BF16 autocast."""
    task = build({"model": str(pretrained), "train_file": str(pretrained / "documents.jsonl"), "text_column": "body"})
    assert task.model.config._attn_implementation == "eager"  # type: ignore[union-attr]
    assert task.remarks[-1].startswith("attention is not fused")
    assert build(TINY).model.config._attn_implementation == "sdpa"  # type: ignore[union-attr]


OWN_SIZES = dict.fromkeys(("num_layers", "hidden", "num_heads"))


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"hidden": 30, "num_heads": 4}, r"^num_heads: must divide hidden \(30\), got 4; "),
        ({"val_file": "b.txt"}, r"^train_file: must be given along with val_file, got nothing; "),
        ({"train_file": "no.txt"}, r"^train_file: must be an existing file, got 'no\.txt'; "),
        ({"train_file": "a.txt", "context": 4096}, r"^train_file: must hold at least 8,192 tokens, got 3,691; lower"),
        (
            {"train_file": "a.txt", "val_file": "b.txt"},
            r"^val_file: must hold at least 32 tokens, got 3; lower ",
        ),
        ({"val_blocks": 0}, r"^val_blocks: must be a whole number of at least 1, got 0; "),
        ({"model": "MODEL"}, r"^num_layers: must be left out where a model is given, which has its own, got 1; "),
        ({"model": "MODEL", **OWN_SIZES}, r"^train_file: must be given along with model, got nothing; "),
        (
            {"model": "MODEL", "train_file": "a.txt", **OWN_SIZES},
            r"^context: must be at most 24, which the model has positions for, got 32; lower it$",
        ),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(
    change: dict[str, Any], pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrained: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(TEXT)
    Path("b.txt").write_text("ab")
    if "model" in change:
        change = {**change, "model": str(pretrained)}
    with pytest.raises(TaskError, match=pattern):
        build({**TINY, **change})


def test_a_tokenizer_must_fit(pretrained: Path, tmp_path: Path) -> None:
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1, "vocab_size": 20}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(pretrained)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "a.txt").write_text(TEXT)

    def asked() -> object:
        return build({"model": str(tmp_path), "train_file": str(tmp_path / "a.txt")})

    with pytest.raises(TaskError, match=r"^model: must know all of its tokenizer's tokens, but has 20"):
        asked()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(TaskError, match=r"^model: needs a tokenizer with a token that ends a text \(eos_token\), got "):
        asked()
