"""Functions that train by themselves: one that works, and others that fail or mislead each in its own way."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trainables import trainable

STEPS: list[tuple[str, int]] = []


def data():
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, (inputs.sum(1) > 0).long())


def make(config):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))
    return model, torch.optim.AdamW(model.parameters(), lr=config.get("learning_rate", 1e-2))


def advance(run, model, optimizer, batch, context=None):
    inputs, labels = batch
    with context or run.autocast():
        loss = nn.functional.cross_entropy(model(inputs.to(run.device)), labels.to(run.device))
    run.scaler.scale(loss).backward()
    run.scaler.step(optimizer)
    run.scaler.update()
    optimizer.zero_grad()
    return loss


@torch.no_grad()
def evaluate(run, model):
    model.eval()
    inputs, labels = data().tensors
    logits = model(inputs.to(run.device)).cpu()
    model.train()
    loss = nn.functional.cross_entropy(logits, labels, reduction="none")
    return {"accuracy": (logits.argmax(1) == labels).float(), "loss": loss}


@trainable
def train(config, run):
    model, optimizer = make(config)
    run.prepare(model, optimizer)
    loader = DataLoader(data(), batch_size=16, shuffle=True)
    for _ in run.epochs():
        for batch in loader:
            with run.step():
                advance(run, model, optimizer, batch)
        run.report(**evaluate(run, model))
