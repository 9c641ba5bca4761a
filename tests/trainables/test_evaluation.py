"""Metrics over a validation set, worked by hand."""

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from trainables.evaluation import Evaluator, extremes
from trainables.loop import Loop
from trainables.outputs import accuracy
from trainables.task import Batch, Task

INPUTS = torch.arange(10.0).unsqueeze(1)


class Identity(nn.Module):
    """Gives its input back, in as many columns as labels need; notes whether gradients and dropout were on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.seen.append((self.training, torch.is_grad_enabled()))
        return inputs * self.weight


def first_column(outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
    return outputs[:, 0]


def mean_of_inputs(outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
    return outputs.mean()


@pytest.fixture
def evaluator(make_loop: Callable[..., Loop]) -> Callable[..., Evaluator]:
    """Ten examples 0, 1, ... 9 in validation batches of 4, 4 and 2; the loss is the mean of a batch's inputs."""

    def make(precision: str = "fp32", **fields: Any) -> Evaluator:
        data = TensorDataset(INPUTS, torch.zeros(10))
        task = Task(**{"model": Identity(), "train_set": data, "val_set": data, "loss": mean_of_inputs} | fields)
        return Evaluator(make_loop(task, precision, batch_size=2))

    return make


def test_values_per_example(evaluator: Callable[..., Evaluator]) -> None:
    found = evaluator(metrics={"first": first_column})
    values, examples = found.evaluate()
    assert values == {"val_first": 4.5, "val_loss": 4.5}  # the mean of batch means would be 5.17
    assert examples["val_first"].tolist() == list(range(10))
    assert examples["val_first"].dtype == "float64"
    assert found.names == ["val_first", "val_loss"]


def test_the_loss_per_example_where_the_task_gives_it(evaluator: Callable[..., Evaluator]) -> None:
    found = evaluator(metrics={}, losses=first_column)
    values, examples = found.evaluate()
    assert found.names == ["val_loss"]
    assert values == {"val_loss": 4.5}
    assert examples["val_loss"].tolist() == list(range(10))
    assert evaluator(metrics={}).evaluate()[1] == {}


def test_sums_and_counts(evaluator: Callable[..., Evaluator]) -> None:
    def above_4(outputs: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, int]:
        kept = outputs[outputs > 4]
        return kept.sum(), kept.numel()

    def nothing(outputs: torch.Tensor, batch: Batch) -> tuple[float, int]:
        return 0.0, 0

    values, examples = evaluator(metrics={"above": above_4, "nothing": nothing}).evaluate()
    assert values["val_above"] == 7  # (5 + 6 + 7 + 8 + 9) / 5
    assert math.isnan(values["val_nothing"])
    assert examples == {}


class Largest:
    """As torchmetrics makes them: a class with ``update`` and ``compute`` that keeps state."""

    def __init__(self, offset: float = 0.0) -> None:
        self.value = -math.inf
        self.offset = offset

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        assert len(logits) == len(labels)
        self.value = max(self.value, float(logits.max()))

    def compute(self) -> torch.Tensor:
        return torch.tensor(self.value + self.offset)


def test_metric_classes_start_anew_in_every_evaluation(evaluator: Callable[..., Evaluator]) -> None:
    metrics = {"largest": Largest, "offset": functools.partial(Largest, offset=0.5)}
    found = evaluator(metrics=metrics)
    expected = {"val_largest": 9.0, "val_offset": 9.5, "val_loss": 4.5}
    assert found.evaluate()[0] == expected
    with torch.no_grad():
        found._loop.model.weight.fill_(-1.0)
    assert found.evaluate()[0] == {"val_largest": 0.0, "val_offset": 0.5, "val_loss": -4.5}


def test_a_partial_of_a_function_is_a_function(evaluator: Callable[..., Evaluator]) -> None:
    def shifted(by: float, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return outputs[:, 0] + by

    values, _ = evaluator(metrics={"shifted": functools.partial(shifted, 1.0)}).evaluate()
    assert values["val_shifted"] == 5.5


def test_regression_without_metrics_has_its_loss_alone(evaluator: Callable[..., Evaluator]) -> None:
    found = evaluator()
    assert found.names == ["val_loss"]
    assert found.evaluate() == ({"val_loss": 4.5}, {})


def test_integer_labels_have_accuracy(make_loop: Callable[..., Loop], tiny_task: Callable[..., Task]) -> None:
    loop = make_loop(tiny_task(), batch_size=16)
    values, examples = Evaluator(loop).evaluate()
    inputs, labels = loop.task.val_set.tensors
    right = loop.model(inputs).argmax(1) == labels
    assert values["val_accuracy"] == pytest.approx(right.double().mean().item())
    assert examples["val_accuracy"].tolist() == right.tolist()


class Tokens(nn.Module):
    """A language model with a loss of its own: of the next token, of the same one, or another loss; or without one."""

    def __init__(self, kind: str, scale: float = 1.0) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 5)
        self.kind, self.scale = kind, nn.Parameter(torch.tensor(scale))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.table(input_ids) * self.scale
        ahead = (logits[:, :-1], labels[:, 1:]) if self.kind == "next" else (logits, labels)
        loss = functional.cross_entropy(ahead[0].flatten(0, 1), ahead[1].flatten())
        return (
            {"logits": logits}
            if self.kind == "none"
            else {"loss": loss * (1 + (self.kind == "other")), "logits": logits}
        )


def token_task(model: nn.Module, **fields: Any) -> Task:
    ids = torch.randint(5, (6, 4), generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.2, -100, ids)
    data = [{"input_ids": one, "labels": other} for one, other in zip(ids, labels, strict=True)]
    return Task(model, data, data, **fields)


def token_accuracy(model: nn.Module, shift: int) -> float:
    batch = torch.utils.data.default_collate(token_task(model).val_set)
    with torch.no_grad():
        logits = model(**batch)["logits"]
    kept = batch["labels"][:, shift:]
    right = logits[:, : logits.shape[1] - shift].argmax(-1) == kept
    return float(right.sum() / (kept != -100).sum())


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize(("kind", "shift"), [("next", 1), ("same", 0), ("none", 0)])
@pytest.mark.parametrize("scale", [0.01, 0.0])
def test_token_accuracy_is_of_the_labels_that_the_models_own_loss_predicts(
    make_loop: Callable[..., Loop], precision: str, kind: str, shift: int, scale: float
) -> None:
    """Logits that are alike before training tell nothing; then it is decided when they no longer are."""
    loop = make_loop(token_task(Tokens(kind, scale)), precision, batch_size=2)
    found = Evaluator(loop)
    for _ in range(20):  # which step tells them apart depends on how a processor rounds
        loop.train(3)
        expected = token_accuracy(loop.model, shift)
        if expected != token_accuracy(loop.model, 1 - shift):
            break
    assert expected != token_accuracy(loop.model, 1 - shift)
    assert found.evaluate()[0]["val_accuracy"] == pytest.approx(expected)


def test_a_task_s_loss_keeps_labels_and_logits_in_the_same_places(make_loop: Callable[..., Loop]) -> None:
    loop = make_loop(token_task(Tokens("next"), loss=lambda outputs, batch: outputs["loss"]), batch_size=2)
    found = Evaluator(loop).evaluate()[0]["val_accuracy"]
    assert found == pytest.approx(token_accuracy(loop.model, 0))
    assert found != token_accuracy(loop.model, 1)


def test_accuracy_of_tokens_is_left_out_where_nothing_tells_which_logits_they_belong_to(
    make_loop: Callable[..., Loop],
) -> None:
    assert Evaluator(make_loop(token_task(Tokens("other")), batch_size=2)).names == ["val_loss"]
    asked_for = make_loop(token_task(Tokens("other"), metrics={"mine": accuracy}), batch_size=2)
    assert Evaluator(asked_for).evaluate()[0]["val_mine"] == pytest.approx(token_accuracy(asked_for.model, 0))


@pytest.mark.parametrize("metric", [mean_of_inputs, lambda outputs, batch: outputs[:1, 0]])
def test_a_mean_over_a_batch_is_refused_as_a_value_per_example(
    evaluator: Callable[..., Evaluator], metric: Any
) -> None:
    with pytest.raises(ValueError, match=r"one value per example \(4 here\) or \(sum, count\), got shape"):
        evaluator(metrics={"mean": metric}).evaluate()


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "bf16-true"])
def test_evaluation_is_without_dropout_and_gradients_and_training_goes_on(
    evaluator: Callable[..., Evaluator], precision: str
) -> None:
    kept = []

    def keep(outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        kept.append(outputs)
        return outputs[:, 0]

    found = evaluator(precision, metrics={"kept": keep})
    model = found._loop.model
    found.evaluate()
    assert set(model.seen) == {(False, False)}
    assert not any(outputs.requires_grad for outputs in kept)
    assert model.weight.grad is None
    found._loop.train(1)
    assert model.seen[-1] == (True, True)


def test_extremes_leave_out_what_is_not_finite() -> None:
    highest: dict[str, float] = {}
    lowest: dict[str, float] = {}
    for value in (0.5, math.nan, math.inf, 0.9, -math.inf, 0.7):
        extremes({"val_accuracy": value}, highest, lowest)
    assert (highest, lowest) == ({"val_accuracy": 0.9}, {"val_accuracy": 0.5})
