"""The loss of a language model and what is told of its predictions, against transformers' own and by hand."""

import math

import pytest
import torch

from trainables.language.next_token import Perplexity, block_losses, next_token_loss, token_accuracy
from trainables.outputs import IGNORED_LABEL


def test_the_loss_is_that_of_transformers_and_the_mean_of_the_blocks() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=30, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config).eval()
    tokens = torch.randint(30, (3, 7))
    outputs = model(input_ids=tokens, labels=tokens)
    loss, blocks = next_token_loss(outputs, (tokens, tokens)), block_losses(outputs, (tokens, tokens))
    assert loss.item() == pytest.approx(outputs.loss.item(), rel=1e-6)
    assert blocks.shape == (3,)
    assert blocks.mean().item() == pytest.approx(loss.item(), rel=1e-6)
    gradients = [
        torch.autograd.grad(each, model.transformer.wte.weight, retain_graph=True)[0] for each in (loss, outputs.loss)
    ]
    torch.testing.assert_close(*gradients)
    perplexity, first, second = Perplexity(), Perplexity(), Perplexity()
    for part, own in ((slice(0, 2), first), (slice(2, 3), second)):
        for metric in (perplexity, own):
            metric.update(outputs.logits[part].detach(), tokens[part])
    assert float(perplexity.compute()) == pytest.approx(math.exp(loss.item()), rel=1e-6)
    merged = Perplexity()
    merged.merge_state([first, second])
    assert float(merged.compute()) == pytest.approx(math.exp(loss.item()), rel=1e-6)


def test_the_logits_of_a_place_predict_the_next_one() -> None:
    tokens = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
    logits = torch.full((2, 4, 3), -20.0)
    for block, place, said in [(0, 0, 1), (0, 1, 2), (0, 2, 0), (1, 0, 2), (1, 1, 1), (1, 2, 0)]:
        logits[block, place, said] = 0.0
    assert token_accuracy(logits, (tokens, tokens)).tolist() == pytest.approx([2 / 3, 1 / 3])
    assert block_losses(logits, (tokens, tokens)).tolist() == pytest.approx([20 / 3, 40 / 3], rel=1e-6)
    masked = tokens.clone()
    masked[0, 3] = IGNORED_LABEL
    assert token_accuracy(logits, (tokens, masked)).tolist() == pytest.approx([1.0, 1 / 3])
    assert float(next_token_loss(logits, (tokens, masked))) == pytest.approx(40 / 5, rel=1e-6)
    assert next_token_loss(logits.bfloat16(), (tokens, tokens)).dtype == torch.float32
