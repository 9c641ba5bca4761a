"""Logits, labels and losses of the forms that models and data sets come in."""

from collections import OrderedDict, namedtuple
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from trainables.outputs import (
    accuracy,
    batch_length,
    default_loss,
    labels_of,
    logits_of,
    make_forward,
    to_device,
    upcast,
    vocabulary_size,
)

LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 1, 0, 0])
LOSS = torch.tensor(0.625)
HIDDEN = torch.zeros(4, 5)


class ModelOutput(OrderedDict[str, torch.Tensor]):
    """As Hugging Face's: a dict whose items are attributes too."""

    def __getattr__(self, name: str) -> torch.Tensor:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


Named = namedtuple("Named", ["loss", "logits"])


@pytest.mark.parametrize(
    "outputs",
    [
        LOGITS,
        (LOGITS,),
        (LOGITS, HIDDEN),
        [LOGITS],
        (LOSS, LOGITS),
        {"logits": LOGITS},
        {"loss": LOSS, "logits": LOGITS},
        {"loss": LOSS, "prediction_logits": LOGITS},
        {"scores": LOGITS},
        ModelOutput(loss=LOSS, logits=LOGITS),
        SimpleNamespace(loss=LOSS, logits=LOGITS),
        Named(LOSS, LOGITS),
    ],
)
def test_logits_are_found(outputs: Any) -> None:
    assert logits_of(outputs) is LOGITS


@pytest.mark.parametrize("outputs", [None, (), {}, "text", (LOSS,), {"loss": LOSS}, {"logits": None}])
def test_outputs_without_logits_say_what_to_return(outputs: Any) -> None:
    with pytest.raises(TypeError, match="return a tensor, a tuple, or a dict with 'logits'"):
        logits_of(outputs)


@pytest.mark.parametrize(
    ("outputs", "own"),
    [
        ({"loss": LOSS, "logits": LOGITS}, True),
        (ModelOutput(loss=LOSS, logits=LOGITS), True),
        (Named(LOSS, LOGITS), True),
        ((LOSS, LOGITS), True),
        ({"loss": None, "logits": LOGITS}, False),
        (Named(None, LOGITS), False),
        ((LOGITS, LOSS), False),
        ((LOGITS,), False),
        (LOGITS, False),
    ],
)
def test_the_models_own_loss_comes_before_cross_entropy(outputs: Any, own: bool) -> None:
    found = default_loss(outputs, (HIDDEN, LABELS))
    torch.testing.assert_close(found, LOSS if own else cross_entropy(LOGITS, LABELS))


def test_cross_entropy_leaves_ignored_labels_out_and_takes_tokens() -> None:
    logits = torch.stack([LOGITS, -LOGITS])  # (2, 4, 3)
    labels = torch.tensor([[0, 1, -100, 0], [-100, -100, 2, 1]])
    kept = labels != -100
    expected = -torch.log_softmax(logits, -1)[kept].gather(1, labels[kept].unsqueeze(1)).mean()
    torch.testing.assert_close(default_loss(logits, {"labels": labels}), expected)
    assert default_loss(logits.bfloat16(), {"labels": labels}).dtype is torch.float32


@pytest.mark.parametrize("batch", [{"x": HIDDEN}, (HIDDEN,), HIDDEN, (HIDDEN, HIDDEN[:, 0])])
def test_without_integer_labels_the_default_loss_says_what_to_give(batch: Any) -> None:
    with pytest.raises(TypeError, match=r"give Task\(loss=\.\.\.\)"):
        default_loss(LOGITS, batch)


@pytest.mark.parametrize("labels", [LABELS, LABELS.unsqueeze(1), LABELS.int()])
def test_accuracy_is_a_value_per_example(labels: torch.Tensor) -> None:
    found = accuracy(LOGITS, {"labels": labels})
    if isinstance(found, tuple):
        assert (int(found[0]), int(found[1])) == (3, 4)
    else:
        assert found.tolist() == [1, 1, 0, 1]
        assert default_loss(LOGITS, (HIDDEN, labels)) == pytest.approx(cross_entropy(LOGITS, LABELS))


def test_accuracy_over_tokens_counts_what_is_not_ignored() -> None:
    labels = torch.tensor([[0, 1, -100, 0], [-100, -100, 2, 1]])
    right, count = accuracy(torch.stack([LOGITS, LOGITS]), {"labels": labels})
    assert (int(right), int(count)) == (4, 5)


@pytest.mark.parametrize(
    ("batch", "labels"),
    [
        ({"x": HIDDEN, "labels": LABELS}, LABELS),
        ({"x": HIDDEN, "label": LABELS}, LABELS),
        ({"x": HIDDEN}, None),
        ({"x": HIDDEN, "labels": ["a"]}, None),
        ((HIDDEN, LABELS), LABELS),
        ((HIDDEN, HIDDEN, LABELS), LABELS),
        ((HIDDEN,), None),
        (HIDDEN, None),
    ],
)
def test_labels_are_found(batch: Any, labels: torch.Tensor | None) -> None:
    assert labels_of(batch) is labels
    assert batch_length(batch) == 4


class Recorder(nn.Module):
    """Hands back what it was called with."""

    def forward(self, *args: Any) -> Any:
        return args


class TakesIds(nn.Module):
    def forward(self, input_ids: Any, attention_mask: Any = None) -> Any:
        return {"input_ids": input_ids, "attention_mask": attention_mask}


class TakesLabels(nn.Module):
    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        return {"input_ids": input_ids, "labels": labels}


class TakesAny(nn.Module):
    def forward(self, input_ids: Any, **others: Any) -> Any:
        return {"input_ids": input_ids, **others}


BATCH = {"input_ids": 1, "labels": 2, "attention_mask": 3, "text": 4}


@pytest.mark.parametrize(
    ("model", "batch", "seen"),
    [
        (TakesIds(), BATCH, {"input_ids": 1, "attention_mask": 3}),
        (TakesLabels(), BATCH, {"input_ids": 1, "labels": 2}),
        (TakesAny(), BATCH, BATCH),
        (Recorder(), BATCH, (BATCH,)),
        (Recorder(), (1, 2), (1,)),
        (Recorder(), (1, 2, 3), (1, 2)),
        (Recorder(), (1,), (1,)),
        (Recorder(), 1, (1,)),
    ],
)
def test_models_are_called_with_what_their_forward_takes(model: nn.Module, batch: Any, seen: Any) -> None:
    assert make_forward(model)(batch) == seen


def test_batches_of_any_nesting_move_and_only_floats_change_dtype() -> None:
    batch = {
        "x": torch.ones(2),
        "pair": [torch.ones(2, dtype=torch.int64), (torch.ones(2, dtype=torch.float64), "text")],
    }
    moved = to_device(batch, torch.device("cpu"), torch.bfloat16)
    assert moved["x"].dtype is torch.bfloat16
    assert moved["pair"][0].dtype is torch.int64
    assert moved["pair"][1][0].dtype is torch.bfloat16
    assert moved["pair"][1][1] == "text"


class Named(NamedTuple):
    x: torch.Tensor
    labels: torch.Tensor


class Movable:
    def to(self, device: torch.device) -> tuple[str, torch.device]:
        return "moved", device


def test_batches_keep_their_names_and_what_moves_itself_does() -> None:
    cpu = torch.device("cpu")
    moved = to_device(Named(torch.ones(1), torch.ones(1)), cpu, torch.bfloat16)
    assert (moved.x.dtype, moved.labels.dtype) == (torch.bfloat16, torch.float32)
    assert to_device([Named(torch.ones(1), torch.ones(1))], cpu)[0].x == 1
    assert to_device((Movable(), Movable()), cpu) == (("moved", cpu), ("moved", cpu))


def test_labels_keep_their_dtype_in_every_precision() -> None:
    targets = torch.tensor([100.3], dtype=torch.float32)
    inputs, labels = to_device((torch.ones(1), targets), torch.device("cpu"), torch.bfloat16)
    assert (inputs.dtype, labels.dtype) == (torch.bfloat16, torch.float32)
    moved = to_device({"x": torch.ones(1), "labels": targets}, torch.device("cpu"), torch.bfloat16)
    assert (moved["x"].dtype, moved["labels"].dtype) == (torch.bfloat16, torch.float32)


def test_outputs_are_scored_in_fp32_whatever_they_came_in() -> None:
    half = torch.ones(2, dtype=torch.bfloat16)
    assert upcast(half).dtype is torch.float32
    assert upcast((half, torch.ones(2, dtype=torch.int64)))[1].dtype is torch.int64
    assert upcast({"logits": half, "other": "text"})["logits"].dtype is torch.float32
    untouched = object()
    assert upcast(untouched) is untouched


def test_one_logit_is_refused_where_the_largest_is_asked_for() -> None:
    logits, labels = torch.zeros(4, 1), torch.tensor([0, 1, 0, 1])
    for function in (accuracy, default_loss):
        with pytest.raises(TypeError, match="one logit has no largest"):
            function(logits, (torch.ones(4), labels))


class Plain(nn.Module):
    """Layers by name, and perhaps a configuration; never called."""

    def __init__(self, config: Any = None, **layers: nn.Module) -> None:
        super().__init__()
        if config is not None:
            self.config = config
        for name, layer in layers.items():
            self.add_module(name, layer)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (nn.Embedding(50, 4), 50),
        (nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 4)), 50),
        (nn.EmbeddingBag(30, 4), 30),
        (Plain(positions=nn.Embedding(16, 4), tokens=nn.Embedding(50, 4), head=nn.Linear(4, 50)), 50),
        (Plain(tokens=nn.Embedding(50, 4), positions=nn.Embedding(16, 4)), 50),
        (Plain(SimpleNamespace(vocab_size=47), tokens=nn.Embedding(64, 4)), 47),
        (Plain(SimpleNamespace(vocab_size=None), tokens=nn.Embedding(64, 4)), 64),
        (Plain(SimpleNamespace(text_config=SimpleNamespace(vocab_size=47))), 47),
        (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), 3),
        (nn.Conv2d(3, 4, 3), None),
        (nn.Identity(), None),
    ],
)
def test_vocabulary_of_plain_models(model: nn.Module, size: int | None) -> None:
    assert vocabulary_size(model) == size
    assert vocabulary_size(Plain(wrapped=model)) == size


@pytest.fixture(scope="module")
def hugging_face() -> dict[str, nn.Module]:
    """Real models, tiny, built from their configurations."""
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertLMHeadModel,
        BertModel,
        EncoderDecoderModel,
        GPT2Config,
        GPT2LMHeadModel,
        T5Config,
        T5ForConditionalGeneration,
        ViTConfig,
        ViTForImageClassification,
    )

    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    bert = BertConfig(vocab_size=61, **tiny)
    decoder = BertConfig(vocab_size=67, is_decoder=True, add_cross_attention=True, **tiny)
    gpt2 = GPT2Config(vocab_size=97, n_embd=8, n_layer=1, n_head=2, n_positions=128)
    t5 = T5Config(vocab_size=83, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    image = ViTConfig(image_size=8, patch_size=4, **tiny)
    return {
        "gpt2": GPT2LMHeadModel(gpt2),
        "bert": BertForSequenceClassification(bert),
        "t5": T5ForConditionalGeneration(t5),
        "bert to bert": EncoderDecoderModel(encoder=BertModel(bert), decoder=BertLMHeadModel(decoder)),
        "vit": ViTForImageClassification(image),
    }


@pytest.mark.parametrize(
    ("name", "size"), [("gpt2", 97), ("bert", 61), ("t5", 83), ("bert to bert", 67), ("vit", None)]
)
def test_vocabulary_of_hugging_face_models(hugging_face: dict[str, nn.Module], name: str, size: int | None) -> None:
    model = hugging_face[name]
    assert vocabulary_size(model) == size
    assert vocabulary_size(Plain(model=model)) == size
    if name in ("gpt2", "t5"):  # as many logits as ids
        ids = torch.tensor([[1, 2, 3]])
        assert logits_of(make_forward(model)({"input_ids": ids, "labels": ids})).shape[-1] == size


def test_padded_embeddings_do_not_add_ids(hugging_face: dict[str, nn.Module]) -> None:
    model: Any = hugging_face["gpt2"]
    model.resize_token_embeddings(pad_to_multiple_of=64)
    rows = model.get_input_embeddings().num_embeddings
    assert rows == 128
    assert vocabulary_size(model) == model.config.vocab_size == 128  # Hugging Face counts the padding in
    model.config.vocab_size = 97
    assert vocabulary_size(model) == 97
    model.config.vocab_size = 1000
    assert vocabulary_size(model) == rows
