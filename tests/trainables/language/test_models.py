"""Pretrained models as trials get them, and low-rank adapters."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainables.hyperparameters import Hyperparameters
from trainables.isolation import weights_digest
from trainables.language import models
from trainables.language.models import adapt, load_model, load_tokenizer
from trainables.loading import TaskError
from trainables.memory import activation_bytes, peak_memory_bytes
from trainables.optim import make_optimizer
from trainables.task import Task

transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CLASSIFIER, GENERATOR = "AutoModelForSequenceClassification", "AutoModelForCausalLM"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(7)
    transformers.BertModel(transformers.BertConfig(**SIZES)).bfloat16().save_pretrained(folder)
    return folder


def gpt2(**options: Any) -> Any:
    sizes = {"vocab_size": 40, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2} | options
    sizes |= dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def llama() -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, tie_word_embeddings=False))


def classifier_of(seed: int, folder: Path, **overrides: Any) -> nn.Module:
    torch.manual_seed(seed)
    return load_model(CLASSIFIER, str(folder), **({"num_labels": 3} | overrides))


def test_a_seed_draws_one_head_whatever_the_process_did_before(encoder: Path) -> None:
    models._read_once.cache_clear()
    cold = classifier_of(3, encoder)
    next_draw = torch.rand(())
    with torch.no_grad():
        for parameter in cold.parameters():
            parameter.add_(1)  # what a trial trains is its own
    warm, other = classifier_of(3, encoder), classifier_of(4, encoder)
    torch.manual_seed(3)
    models._read_once.cache_clear()
    torch.rand(5)
    assert weights_digest(classifier_of(3, encoder)) == weights_digest(warm)
    assert torch.equal(torch.rand(()), next_draw)
    assert {p.dtype for p in warm.parameters()} == {torch.float32}
    differing = [n for (n, a), b in zip(warm.named_parameters(), other.parameters(), strict=True) if not a.equal(b)]
    assert differing == ["classifier.weight"]  # its bias is 0
    assert warm.new_parameters == {"classifier.weight", "classifier.bias"}
    # As wide as transformers draws it, which is not as PyTorch does.
    assert float(warm.get_parameter("classifier.weight").detach().std()) == pytest.approx(0.02, rel=0.4)


def test_a_head_that_was_trained_is_kept_unless_its_labels_are_others(encoder: Path, tmp_path: Path) -> None:
    trained = classifier_of(1, encoder)
    trained.save_pretrained(tmp_path)  # type: ignore[operator]
    assert weights_digest(classifier_of(2, tmp_path)) == weights_digest(trained)
    wider = [classifier_of(seed, tmp_path, num_labels=5).get_parameter("classifier.weight") for seed in (2, 2, 3)]
    assert wider[0].shape == (5, 16)
    assert wider[0].equal(wider[1])
    assert not wider[0].equal(wider[2])


def test_an_encoder_without_a_pooler_gets_one_and_trains_it(tmp_path: Path) -> None:
    transformers.BertForMaskedLM(transformers.BertConfig(**SIZES)).save_pretrained(tmp_path)
    made = [classifier_of(seed, tmp_path) for seed in (0, 0, 1)]
    pooler = [model.get_parameter("bert.pooler.dense.weight") for model in made]
    assert pooler[0].equal(pooler[1])
    assert not pooler[0].equal(pooler[2])
    trained = {name for name, p in adapt(made[0], {"lora_rank": 2}).named_parameters() if p.requires_grad}
    assert {"bert.pooler.dense.weight", "classifier.bias"} < trained
    assert len(trained) == 4 + 2 * 6 * 2


def test_a_folder_that_changed_is_read_again(tmp_path: Path) -> None:
    first, second = gpt2(), gpt2()
    for model in (first, second):
        model.save_pretrained(tmp_path)
        assert weights_digest(load_model(GENERATOR, str(tmp_path))) == weights_digest(model)
    config = load_model(GENERATOR, str(tmp_path)).config
    assert not config.use_cache  # type: ignore[union-attr]


def test_a_second_trial_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpt2().save_pretrained(tmp_path)
    first = load_model(GENERATOR, str(tmp_path))
    monkeypatch.setattr(models, "read_model", None)
    second = load_model(GENERATOR, str(tmp_path))
    assert weights_digest(first) == weights_digest(second)
    assert not {p.data_ptr() for p in first.parameters()} & {p.data_ptr() for p in second.parameters()}


def test_a_large_model_is_not_kept_and_is_the_same(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models._read_once.cache_clear()
    copied = classifier_of(3, encoder)
    monkeypatch.setattr(models, "MOST_BYTES", 1000)
    large = [classifier_of(3, encoder) for _ in range(2)]
    assert {weights_digest(model) for model in large} == {weights_digest(copied)}
    assert models._read_once.cache_info().currsize == 0
    assert large[0] is not large[1]


def test_what_cannot_be_loaded_is_told_in_one_line(encoder: Path, tmp_path: Path) -> None:
    def refused(pattern: str, auto_class: str = CLASSIFIER, place: Path | str = tmp_path, **overrides: Any) -> None:
        with pytest.raises(TaskError, match=pattern) as raised:
            load_model(auto_class, str(place), **overrides)
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 500

    config = json.loads((encoder / "config.json").read_text())

    def written(**changes: Any) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config | changes))

    refused(r"^model: must be an existing folder or a name on the hub, got '.*no'; check", place=tmp_path / "no")
    refused(r"^model: the folder must hold config\.json and weights, got '.*'; save it by save_pretrained$")
    written()
    refused(r"^model: must be readable \(.*no file named model\.safetensors.*\), got '.*'; save or download the whole")
    (tmp_path / "model.safetensors").write_bytes((encoder / "model.safetensors").read_bytes()[:-9])
    refused(r"^model: must be readable \(SafetensorError: .*\), got '.*'; save or download the whole model again$")
    (tmp_path / "model.safetensors").write_bytes((encoder / "model.safetensors").read_bytes())
    written(num_hidden_layers=3)
    refused(r"^model: the folder must hold all weights of BertForSequenceClassification, got none for bert\.encoder\.l")
    written()
    refused(r"^model: the folder must hold all weights of BertLMHeadModel, got none for cls\.pred", GENERATOR)
    refused(r"^model: must be of an architecture that serves this task \(.*'nonsense'.*; take", nonsense=1)
    written(model_type="nonsense")
    refused(r"^model: must be of an architecture that serves this task \(.* `nonsense` .*; take a model of another")
    written(model_type="nonsense", auto_map={"AutoConfig": "a.B", CLASSIFIER: "a.C"})
    refused(r"^model: must be of an architecture .*code in a model never runs$")
    transformers.ViTModel(transformers.ViTConfig(**SIZES)).save_pretrained(tmp_path)
    refused(r"^model: must be of an architecture that serves this task \(.*ViTConfig", GENERATOR)


def test_a_hub_that_cannot_be_reached_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's address is one at which nothing listens, as on a machine without a connection."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", "http://127.0.0.1:9", raising=False)
    pattern = r"^model: must be on this machine, since the hub cannot be reached \(.*\), got 'a/b'; give a local folder"
    for load in (lambda: load_model(GENERATOR, "a/b"), lambda: load_tokenizer("a/b")):
        started = time.perf_counter()
        with pytest.raises(TaskError, match=pattern):
            load()
        assert time.perf_counter() - started < 20  # transformers alone takes half a minute, and twice that for both


def test_a_tokenizer_is_read_or_missed(tmp_path: Path) -> None:
    transformers.BertConfig(**SIZES).save_pretrained(tmp_path)
    missing = r"^model: the folder must hold a tokenizer \(.*\), got '.*'; save it there by tokenizer\.save_pretrained$"
    with pytest.raises(TaskError, match=missing):
        load_tokenizer(str(tmp_path))  # transformers would make one that knows five tokens
    transformers.LlamaConfig(**SIZES).save_pretrained(tmp_path)
    with pytest.raises(TaskError, match=missing):
        load_tokenizer(str(tmp_path))
    words = tmp_path / "words"
    words.mkdir()
    transformers.BertConfig(**SIZES).save_pretrained(words)
    (words / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]))
    assert load_tokenizer(str(words))("good bad")["input_ids"] == [2, 5, 6, 3]


def step(model: nn.Module, **inputs: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """(loss, bytes saved, the memory figure) of a step, whose gradients stay."""
    task = Task(model, [0], [0])  # type: ignore[arg-type]
    optimizer = make_optimizer(task, Hyperparameters(learning_rate=1e-3))
    model.train()
    with activation_bytes(model) as saved:
        loss = model(**inputs).loss
        activations = saved()
    loss.backward()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.grad is not None}
    optimizer.step()
    return loss, activations, peak_memory_bytes(model, optimizer, activations, torch.device("cpu"))


@pytest.mark.parametrize("make", [gpt2, llama])
def test_lora_trains_linear_layers_of_any_architecture_and_needs_less_memory(make: Any) -> None:
    torch.manual_seed(0)
    whole, adapted = make(), make()
    adapted.load_state_dict(whole.state_dict())
    names = {name for name, _ in adapted.named_parameters()}
    assert adapt(adapted, {"lora_rank": 2, "lora_alpha": 8}) is adapted
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in trained)
    assert not names & set(trained)
    assert len(trained) == 2 * 2 * (4 if make is gpt2 else 7)
    tokens = torch.randint(40, (2, 16))
    (full, _, most), (low, _, less) = (step(model, input_ids=tokens, labels=tokens) for model in (whole, adapted))
    assert full.item() == pytest.approx(low.item(), rel=1e-6)  # the updates start at 0
    assert less < most
    assert step(adapted, input_ids=tokens, labels=tokens)[0].item() < low.item()


def test_lora_trains_the_head_of_a_classifier(encoder: Path) -> None:
    model = adapt(classifier_of(0, encoder), {"lora_rank": 1, "lora_dropout": 0.5})
    before = {name: p.clone() for name, p in model.named_parameters()}
    step(model, input_ids=torch.randint(40, (2, 8)), labels=torch.tensor([0, 2]))
    moved = {name for name, p in model.named_parameters() if not p.equal(before[name])}
    assert {"classifier.weight", "classifier.bias"} < moved
    assert all("lora_B" in name for name in moved if "classifier" not in name)  # lora_A has no gradient yet
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) < 0.2 * sum(
        p.numel() for p in model.parameters()
    )
    torch.manual_seed(1)
    first = adapt(classifier_of(5, encoder), {"lora_rank": 1})
    second = adapt(classifier_of(5, encoder), {"lora_rank": 1})
    assert weights_digest(first) == weights_digest(second)


@pytest.mark.parametrize("rank", [0, 2])
def test_gradient_checkpointing_saves_memory_and_changes_no_gradient(rank: int) -> None:
    torch.manual_seed(0)
    plain = gpt2(n_layer=4)
    tokens = torch.randint(40, (2, 16))
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        model = gpt2(n_layer=4)
        model.load_state_dict(plain.state_dict())
        adapt(model, {"lora_rank": rank, "gradient_checkpointing": checkpointing})
        _, saved, _ = step(model, input_ids=tokens, labels=tokens)
        found.append((saved, [p.grad for p in model.parameters() if p.grad is not None]))
    (most, expected), (least, gradients) = found
    assert least < 0.6 * most
    assert expected
    assert all(torch.equal(a, b) for a, b in zip(expected, gradients, strict=True))


@pytest.mark.parametrize(
    ("config", "pattern"),
    [
        ({"lora_rank": -1}, r"^lora_rank: must be a whole number of at least 0, got -1; 8 and"),
        ({"lora_rank": 1.5}, r"^lora_rank: must be a whole number"),
        ({"lora_rank": 2, "lora_alpha": 0}, r"^lora_alpha: must be above 0, got 0; "),
        ({"lora_rank": 2, "lora_dropout": 1.0}, r"^lora_dropout: must be at least 0 and below 1, got 1\.0; "),
    ],
)
def test_bad_ways_to_adapt_are_refused(config: dict[str, Any], pattern: str) -> None:
    with pytest.raises(TaskError, match=pattern):
        adapt(gpt2(), config)


def test_missing_libraries_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch, encoder: Path) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(TaskError, match=r"^lora_rank: needs peft, got .*; pip install 'ampsweep\[lora\]'$"):
        adapt(gpt2(), {"lora_rank": 2})
    monkeypatch.setitem(sys.modules, "transformers", None)
    models._read_once.cache_clear()
    with pytest.raises(TaskError, match=r"needs transformers, got .*; pip install 'ampsweep\[huggingface\]'$"):
        load_model(CLASSIFIER, str(encoder))
    with pytest.raises(TaskError, match=r"needs transformers, got .*; pip install 'ampsweep\[huggingface\]'$"):
        load_tokenizer(str(encoder))
