"""Two models on the same examples: what is measured of each, and how single examples are scored."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from trainables import throughput
from trainables.candidates import Candidate
from trainables.comparison import Measured, measure
from trainables.examples import Examples
from trainables.isolation import isolated
from trainables.ladder import LADDER
from trainables.loading import TaskError
from trainables.sides import both_sides
from trainables.task import Task

CPU = torch.device("cpu")
VOCABULARY, LENGTH = 11, 6


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings as the command has them; short windows, since no test asserts a speed."""
    monkeypatch.setattr(throughput, "MIN_WINDOW_MS", 0.1)
    with isolated(LADDER["fp32"], 0, 1):
        yield


def compare(
    model: nn.Module, baseline: nn.Module, examples: Examples, precisions: Any = ("fp32", "fp32"), batch_size: int = 16
) -> tuple[Measured, Measured, list[str]]:
    candidates = [Candidate(name, module) for name, module in (("model", model), ("baseline", baseline))]
    sides = both_sides(*candidates, (LADDER[precisions[0]], LADDER[precisions[1]]), CPU)
    return measure(sides, examples, batch_size, 2)


class LanguageModel(nn.Module):
    """Predicts each token, or with ``shift`` the next one, as Hugging Face's do: by a loss of its own."""

    def __init__(self, shift: bool, smoothing: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)
        self.shift, self.smoothing = shift, smoothing

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.table(input_ids)
        if labels is None:
            return {"logits": logits}
        ahead = (logits[:, :-1], labels[:, 1:]) if self.shift else (logits, labels)
        loss = functional.cross_entropy(
            ahead[0].flatten(0, 1), ahead[1].flatten(), ignore_index=-100, label_smoothing=self.smoothing
        )
        return {"loss": loss, "logits": logits}


class Bare(nn.Module):
    """The logits alone of a language model."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.inner = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.inner(input_ids)["logits"]


class Tokens(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, num: int = 40) -> None:
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(VOCABULARY, (num, LENGTH), generator=generator)
        self.labels = self.ids.clone()
        for row, length in enumerate(torch.randint(2, LENGTH + 1, (num,), generator=generator).tolist()):
            self.labels[row, length:] = -100

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


def mean(measured: Measured, figure: str) -> float:
    sums, counts = measured.sums[figure]
    return float(sums.sum() / counts.sum())


@pytest.mark.parametrize("shift", [True, False])
def test_labels_are_compared_with_the_logits_that_the_model_compares_them_with(shift: bool) -> None:
    """A baseline that gives logits alone is scored as the model is, for nothing tells otherwise."""
    data, model = Tokens(), LanguageModel(shift)
    found, other, notes = compare(model, Bare(LanguageModel(shift)), Examples("tokens", data), batch_size=7)
    with torch.no_grad():
        outputs = model(data.ids, data.labels)
    assert found.has_perplexity
    assert mean(found, "loss") == pytest.approx(float(outputs["loss"]), rel=1e-5)
    kept = data.labels[:, 1:] if shift else data.labels
    predicted = outputs["logits"].argmax(-1)[:, :-1] if shift else outputs["logits"].argmax(-1)
    right, counts = found.sums["accuracy"]
    assert right.tolist() == ((predicted == kept) & (kept != -100)).sum(1).tolist()
    assert counts.tolist() == other.sums["loss"][1].tolist() == (kept != -100).sum(1).tolist()
    assert not any("one example at a time" in note for note in notes)


def test_a_loss_that_is_not_cross_entropy_is_taken_of_one_example_at_a_time() -> None:
    data = Tokens(12)
    model = LanguageModel(True, smoothing=0.2)
    found, _, notes = compare(model, LanguageModel(True, smoothing=0.2), Examples("tokens", data))
    with torch.no_grad():
        expected = [float(model(data.ids[i : i + 1], data.labels[i : i + 1])["loss"]) for i in range(12)]
    assert found.sums["loss"][0] == pytest.approx(expected)
    assert not found.has_perplexity
    assert list(found.sums) == ["loss"]  # which logits a label belongs to is not known
    assert any("one example at a time" in note for note in notes)


def classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))


def vectors(num: int = 50) -> TensorDataset:
    inputs = torch.randn(num, 8, generator=torch.Generator().manual_seed(2))
    return TensorDataset(inputs, (inputs.sum(1) > 0).long())


def test_losses_and_accuracy_of_a_classifier() -> None:
    data, model = vectors(), classifier()
    found, _, _ = compare(model, classifier(), Examples("vectors", data))
    with torch.no_grad():
        logits = model.eval()(data.tensors[0])
    losses = functional.cross_entropy(logits, data.tensors[1], reduction="none")
    assert found.sums["loss"][0] == pytest.approx(losses.numpy(), rel=1e-5)
    assert found.sums["accuracy"][0].tolist() == (logits.argmax(1) == data.tensors[1]).tolist()
    assert not found.has_perplexity
    assert found.sizes == {"parameters": 8 * 16 + 16 + 32 + 2, "bytes": 4 * 178}
    assert len(found.rates) == 2
    assert all(rate > 0 for rate in found.rates)


class Counted:
    """As torchmetrics makes them."""

    def __init__(self) -> None:
        self.num = 0

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self.num += len(labels)

    def compute(self) -> float:
        return float(self.num)


def test_a_regression_is_scored_by_its_task() -> None:
    inputs = torch.randn(20, 8)
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))

    def squared(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        return (outputs - batch[1]).square().mean()

    metrics = {
        "absolute": lambda outputs, batch: (outputs - batch[1]).abs()[:, 0],
        "positive": lambda outputs, batch: ((outputs > 0).sum(), len(outputs)),
        "counted": Counted,
    }
    model = nn.Linear(8, 1)
    task = Task(model, data, data, loss=squared, metrics=metrics)
    found, _, _ = compare(model, nn.Linear(8, 1), Examples("regression", data, task), batch_size=8)
    with torch.no_grad():
        errors = model(inputs) - data.tensors[1]
        positive = model(inputs) > 0
    assert list(found.sums) == ["loss", "absolute", "positive"]
    assert found.sums["loss"][0] == pytest.approx(errors.square()[:, 0].numpy(), rel=1e-5)
    assert found.sums["absolute"][0] == pytest.approx(errors.abs()[:, 0].numpy(), rel=1e-5)
    assert found.sums["positive"][1].tolist() == [8, 8, 4]  # of batches, for it gives no more
    assert found.sums["positive"][0].sum() == positive.sum()
    assert found.values == {"counted": 20.0}


def test_both_models_see_the_same_batches_even_where_items_are_drawn_at_random() -> None:
    class Noise(Dataset[Any]):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> Any:
            return torch.randn(8), torch.tensor(index % 2)

    model = classifier()
    found, other, _ = compare(model, model, Examples("noise", Noise()))
    assert found.sums["loss"][0].tolist() == other.sums["loss"][0].tolist()
    assert np.ptp(found.sums["loss"][0]) > 0


@pytest.mark.parametrize(
    ("precision", "num_bytes", "loss"), [("bf16-mixed", 4 * 178, 1e-2), ("bf16-true", 2 * 178, 3e-2)]
)
def test_one_model_in_two_precisions(precision: str, num_bytes: int, loss: float) -> None:
    """One module stands on both sides: casting it for one must not reach the other."""
    model = classifier()
    found, other, _ = compare(model, model, Examples("vectors", vectors()), (precision, "fp32"))
    assert (found.effective_precision, other.effective_precision) == (precision, "fp32")
    assert (found.sizes["bytes"], other.sizes["bytes"]) == (num_bytes, 4 * 178)
    assert 0 < abs(mean(found, "loss") - mean(other, "loss")) < loss


def test_a_model_that_runs_in_another_precision_than_asked_for_is_told() -> None:
    class Liar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = classifier()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.inner(x)

    found, other, notes = compare(Liar(), classifier(), Examples("vectors", vectors()))
    assert (found.effective_precision, other.effective_precision) == ("bf16-mixed", "fp32")
    assert [note for note in notes if note.startswith("MODEL: asked for fp32")]


def test_a_loss_that_is_not_a_number_is_kept_as_such() -> None:
    broken = classifier()
    with torch.no_grad():
        broken[0].weight.fill_(math.nan)
    found, other, _ = compare(broken, classifier(), Examples("vectors", vectors()))
    assert math.isnan(mean(found, "loss"))
    assert math.isfinite(mean(other, "loss"))


def unlabelled() -> TensorDataset:
    return TensorDataset(torch.randn(10, 8))


def of_three_classes() -> TensorDataset:
    return TensorDataset(torch.randn(10, 8), torch.arange(10) % 3)


class Raises(Dataset[Any]):
    """Its last item cannot be read."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        if index == 19:
            raise OSError("planted")
        return torch.randn(8), torch.tensor(0)


@pytest.mark.parametrize(
    ("model", "baseline", "data", "message"),
    [
        (nn.Linear(8, 2), nn.Linear(9, 2), vectors, "--data: must fit BASELINE, whose forward fails .*shapes"),
        (nn.Linear(8, 2), nn.Linear(8, 3), vectors, "BASELINE: must give as many classes as MODEL, got 3 and not 2"),
        (nn.Linear(8, 2), nn.Linear(8, 2), of_three_classes, "labels from 0 to 1, as MODEL has 2 classes, got 0 to 2"),
        (nn.Linear(8, 2), nn.Linear(8, 2), unlabelled, "--data: must have an integer label for each row of logits"),
        (nn.Linear(8, 2), nn.Linear(8, 2), Raises, "must load, and .* OSError: planted"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    model: nn.Module, baseline: nn.Module, data: Callable[[], Any], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        compare(model, baseline, Examples("data", data()), batch_size=8)


def test_a_metric_that_fails_is_told_in_one_line() -> None:
    def fails(outputs: Any, batch: Any) -> Any:
        raise KeyError("planted")

    task = Task(classifier(), vectors(), vectors(), metrics={"mine": partial(fails)})
    with pytest.raises(
        TaskError, match=r"its loss and metrics must take what the models give, got KeyError: 'planted'"
    ):
        compare(classifier(), classifier(), Examples("data", vectors(), task))
