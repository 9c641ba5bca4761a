"""Models of Hugging Face's transformers, from folders that it wrote."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.data import Dataset

from trainables import throughput
from trainables.candidates import Candidate, load_candidate
from trainables.comparison import measure
from trainables.examples import Examples
from trainables.isolation import isolated
from trainables.ladder import LADDER
from trainables.loading import TaskError
from trainables.sides import both_sides

transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


class Sentences(Dataset[dict[str, torch.Tensor]]):
    """Tokens that are their own labels, as for a causal language model; some of unequal length."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(40, (10,), generator=torch.Generator().manual_seed(index))
        labels = ids.clone()
        labels[5 + index % 5 :] = -100
        return {"input_ids": ids, "labels": labels}


def test_perplexity_of_a_causal_language_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved in BF16, it is compared in FP32; and the next token is what counts, by its own loss."""
    monkeypatch.setattr(throughput, "MIN_WINDOW_MS", 0.1)
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=16)
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path)
    with isolated(LADDER["fp32"], 0, 1):
        model = load_candidate("MODEL", str(tmp_path), 0)
        assert {p.dtype for p in model.model.parameters()} == {torch.float32}
        sides = both_sides(
            model,
            load_candidate("BASELINE", str(tmp_path), 0),
            (LADDER["fp32"], LADDER["bf16-mixed"]),
            torch.device("cpu"),
        )
        found, other, notes = measure(sides, Examples("sentences", Sentences()), 8, 2)
        whole = next(Examples("sentences", Sentences()).batches(20))
        with torch.no_grad():
            expected = float(sides[0].model(**whole).loss)
    sums, counts = found.sums["loss"]
    assert found.has_perplexity
    assert sums.sum() / counts.sum() == pytest.approx(expected, rel=1e-5)
    assert counts.tolist() == [4 + index % 5 for index in range(20)]
    assert (found.effective_precision, other.effective_precision) == ("fp32", "bf16-mixed")
    assert not [note for note in notes if "one example" in note]


class Labelled(Sentences):
    """Tokens with labels of their own, or one label each."""

    def __init__(self, per_token: bool) -> None:
        self.per_token = per_token

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = super().__getitem__(index)
        labels = torch.where(item["labels"] < 0, -100, item["labels"] % 3)
        return {"input_ids": item["input_ids"], "labels": labels if self.per_token else labels[0]}


@pytest.mark.parametrize("precision", ["bf16-true", "fp16-true"])
@pytest.mark.parametrize(
    ("config", "model", "data", "shift"),
    [
        (transformers.BertConfig, "BertForTokenClassification", Labelled(True), 0),
        (transformers.BertConfig, "BertForSequenceClassification", Labelled(False), 0),
        (transformers.GPT2Config, "GPT2LMHeadModel", Sentences(), 1),
    ],
)
def test_a_loss_that_is_a_16_bit_number_is_known_for_cross_entropy(
    precision: str, config: Any, model: str, data: Dataset[Any], shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Untrained, so that a shift and a 16-bit loss's rounding change it by as little as each other."""
    monkeypatch.setattr(throughput, "MIN_WINDOW_MS", 0.1)
    with isolated(LADDER["fp32"], 0, 1):
        one, other = (Candidate(name, getattr(transformers, model)(config(**SIZES, num_labels=3))) for name in "ab")
        sides = both_sides(one, other, (LADDER[precision], LADDER["fp32"]), torch.device("cpu"))
        found, _, notes = measure(sides, Examples("data", data), 20, 2)
        whole = next(Examples("data", data).batches(20))
        with torch.no_grad():
            outputs = sides[0].model(**whole)
    ahead = (outputs.logits[:, :-1], whole["labels"][:, 1:]) if shift else (outputs.logits, whole["labels"])
    expected = functional.cross_entropy(ahead[0].flatten(0, -2).float(), ahead[1].flatten())
    sums, counts = found.sums["loss"]
    assert sums.sum() / counts.sum() == pytest.approx(float(expected), rel=1e-5)
    assert found.has_perplexity is (model != "BertForSequenceClassification")
    assert found.sums["accuracy"][0].sum() == (ahead[0].argmax(-1) == ahead[1]).sum()
    assert found.effective_precision == precision
    assert not [note for note in notes if "one example" in note]


def test_a_folder_that_lacks_weights_or_names_no_known_model_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(**SIZES)
    transformers.BertModel(config).save_pretrained(tmp_path)

    def rename(architecture: str) -> None:
        written: dict[str, Any] = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(written | {"architectures": [architecture]}))

    assert load_candidate("MODEL", str(tmp_path), 0).model.config.hidden_size == 16
    rename("BertForSequenceClassification")
    with pytest.raises(TaskError, match=r"all weights of BertForSequenceClassification, got none for classifier.bias"):
        load_candidate("MODEL", str(tmp_path), 0)
    rename("NoSuchModel")
    with pytest.raises(TaskError, match=r"MODEL: config\.json must name an architecture .*, got 'NoSuchModel'; write"):
        load_candidate("MODEL", str(tmp_path), 0)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(TaskError, match=r"MODEL: .* must load without an error, got"):
        load_candidate("MODEL", str(tmp_path), 0)
