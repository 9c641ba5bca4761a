"""What is timed: BERT-large, a GPT of 355 M parameters and a tiny MLP, as tasks; random weights and random tokens."""

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from trainables.loading import find_task
from trainables.outputs import logits_of
from trainables.spec import Budget, TrialSpec
from trainables.task import Batch, Task

SEED, BATCHES = 0, 4
"""Of every arm, and how many batches the data hold."""


@dataclass(frozen=True)
class Subject:
    """A model in its sizes.

    Args:
        name: as tables show it.
        function: of this module, that builds its task.
        batch_size: sequences of a step.
        length: tokens of a sequence; 1 for the MLP, whose examples count as tokens.
        hidden, layers, heads: of the transformer.
        vocabulary: number of tokens.
    """

    name: str
    function: str
    batch_size: int
    length: int
    hidden: int
    layers: int
    heads: int
    vocabulary: int

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.batch_size * self.length

    def spec(self, compile: bool = False) -> TrialSpec:
        """A trial on it, for :func:`trainables.build.build_observed`; its precision is not used."""
        config = {
            "sizes": self,
            "batch_size": self.batch_size,
            "learning_rate": 3e-5,
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
        }
        task = find_task(f"benchmarks.gpu.models:{self.function}")
        return TrialSpec(self.name, task, config, "fp32", SEED, Budget(max_epochs=1), compile=compile)

    def step_flops(self, model: nn.Module) -> int:
        """Model FLOPs of a step: 6 for each token and weight of a matrix product, and attention over all positions.

        Source:
            Chowdhery et al. 2022 (PaLM, arXiv 2204.02311), appendix B; recomputation does not count, and a causal mask
            saves nothing.
        """
        attention = 0 if self.length == 1 else 12 * self.layers * self.hidden * self.length
        return self.tokens * (6 * matrix_weights(model) + attention)


BERT = Subject("BERT-large", "bert", 32, 384, 1024, 24, 16, 30_522)
"""Question answering, in the shape of NVIDIA's row for fine-tuning on SQuAD: length 384, 32 sequences a GPU."""

GPT = Subject("GPT 355M", "gpt", 8, 1024, 1024, 24, 16, 50_304)
"""GPT-2's medium size; its vocabulary is rounded up to a multiple of 64."""

MLP = Subject("tiny MLP", "mlp", 64, 1, 256, 3, 1, 10)
"""The negative control: its steps are launches, so that no precision can make them 1.5 times as fast."""

TINY = (
    MLP,
    Subject("BERT, tiny", "bert", 4, 32, 64, 2, 2, 256),
    Subject("GPT, tiny", "gpt", 4, 32, 64, 2, 2, 256),
)
"""In place of (MLP, BERT, GPT) where the script itself is tried out."""


def matrix_weights(model: nn.Module) -> int:
    """Parameters that each token is multiplied with; an embedding's only where they also make the logits."""
    modules = [module for module in model.modules() if not isinstance(module, nn.Embedding)]
    weights = [module.weight for module in modules if isinstance(getattr(module, "weight", None), nn.Parameter)]
    return sum(weight.numel() for weight in weights if weight.dim() == 2)


def bert(config: Mapping[str, Any]) -> Task:
    """BERT for question answering; labels (B, 2) are where the answer starts and ends."""
    sizes: Subject = config["sizes"]
    ids = _integers(sizes.vocabulary, (BATCHES * sizes.batch_size, sizes.length))
    spans = _integers(sizes.length, (len(ids), 2))
    data = TensorDataset(ids, spans)
    return Task(copy.deepcopy(_bert(sizes)), data, data, loss=span_loss)


def gpt(config: Mapping[str, Any]) -> Task:
    """GPT-2; labels (B, T) are the next tokens."""
    sizes: Subject = config["sizes"]
    tokens = _integers(sizes.vocabulary, (BATCHES * sizes.batch_size, sizes.length + 1))
    data = TensorDataset(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    return Task(copy.deepcopy(_gpt(sizes)), data, data, loss=token_loss)


def mlp(config: Mapping[str, Any]) -> Task:
    """64-256-256-10, as in ``benchmarks/loop.py``."""
    sizes: Subject = config["sizes"]
    generator = torch.Generator().manual_seed(SEED)
    inputs = torch.randn(BATCHES * sizes.batch_size, 64, generator=generator)
    layers = (nn.Linear(64, sizes.hidden), nn.ReLU(), nn.Linear(sizes.hidden, sizes.hidden), nn.ReLU())
    data = TensorDataset(inputs, _integers(sizes.vocabulary, (len(inputs),)))
    return Task(nn.Sequential(*layers, nn.Linear(sizes.hidden, sizes.vocabulary)), data, data, loss=token_loss)


def span_loss(outputs: Any, batch: Batch) -> torch.Tensor:
    """The mean of both positions' cross-entropy, as transformers computes it."""
    starts, ends = batch[-1].unbind(1)
    start = functional.cross_entropy(outputs["start_logits"].float(), starts)
    return (start + functional.cross_entropy(outputs["end_logits"].float(), ends)) / 2


def token_loss(outputs: Any, batch: Batch) -> torch.Tensor:
    """Cross-entropy of each label."""
    return functional.cross_entropy(logits_of(outputs).float().flatten(0, -2), batch[-1].flatten())


def _integers(high: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(SEED))


@functools.cache  # random weights of 350 M parameters take seconds to draw
def _bert(sizes: Subject) -> nn.Module:
    from transformers import BertConfig, BertForQuestionAnswering

    return BertForQuestionAnswering(
        BertConfig(
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.hidden,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            intermediate_size=4 * sizes.hidden,
            max_position_embeddings=512,
        )
    )


@functools.cache
def _gpt(sizes: Subject) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=sizes.vocabulary,
            n_positions=sizes.length,
            n_embd=sizes.hidden,
            n_layer=sizes.layers,
            n_head=sizes.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
        )
    )
    for block in model.transformer.h:
        for part, names in ((block.attn, ("c_attn", "c_proj")), (block.mlp, ("c_fc", "c_proj"))):
            for name in names:
                setattr(part, name, _as_linear(getattr(part, name)))
    return model


def _as_linear(layer: Any) -> nn.Linear:
    """GPT-2's ``Conv1D`` as the linear layer that it is, since torchao converts no other."""
    linear = nn.Linear(*layer.weight.shape)
    with torch.no_grad():
        linear.weight.copy_(layer.weight.T)
        linear.bias.copy_(layer.bias)
    return linear
