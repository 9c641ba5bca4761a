"""Macro F1 against counts by hand, and what a worker of a team keeps of its share."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from trainables.evaluation import make_total
from trainables.language.macro_f1 import MacroF1
from trainables.language.next_token import Perplexity
from trainables.team import Team

LABELS, PREDICTED = [0, 0, 0, 1, 1, 3], [0, 0, 1, 1, 4, 0]


def test_it_is_the_mean_over_classes_that_occur_however_batches_are_cut() -> None:
    logits, labels = functional.one_hot(torch.tensor(PREDICTED), 6).float(), torch.tensor(LABELS)
    for size in (1, 4, 6):
        metric = MacroF1(6)
        for part in torch.arange(6).split(size):
            metric.update(logits[part].bfloat16(), labels[part])
        # Hits and, of labels and predictions, how many name the class: 2 of 6, 1 of 4, none of 1 for each of 3 and 4.
        assert metric.compute().item() == pytest.approx((2 * 2 / 6 + 2 * 1 / 4 + 0 + 0) / 4)


@pytest.mark.parametrize(("metric", "shape"), [(functools.partial(MacroF1, 6), (4, 6)), (Perplexity, (4, 8, 6))])
def test_a_worker_keeps_no_logits(metric: Callable[[], Any], shape: tuple[int, ...]) -> None:
    """Those of a language model's validation set would be many gigabytes."""
    total = make_total(metric, Team(0, 2))
    logits = torch.randn(shape)
    freed = weakref.ref(logits)
    total.add(logits, (logits.argmax(-1), logits.argmax(-1)))
    del logits
    assert freed() is None
