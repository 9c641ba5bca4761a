"""Functions that train by themselves: one that works, and others that fail or mislead each in its own way."""

import contextlib
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trainables import trainable


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


def variant(context=None, optimizer=None, before=None, report=True, time_s=0.0):
    """A function that differs from the one that works in what is given."""

    @trainable
    def varied(config, run):
        model, adamw = make(config)
        used = adamw if optimizer is None else optimizer(model)
        run.prepare(model, used)
        loader = DataLoader(data(), batch_size=16, shuffle=True)
        for _ in run.epochs():
            for batch in loader:
                with run.step():
                    if before is not None:
                        before(run, model)
                    advance(run, model, used, batch, context and context(run))
            if report:
                found = evaluate(run, model)
                time.sleep(time_s)
                run.report(**found)

    return varied


def bf16():
    return torch.autocast("cpu", dtype=torch.bfloat16)


without_autocast = variant(context=lambda run: contextlib.nullcontext())
own_autocast = variant(context=lambda run: bf16())
widened = variant(before=lambda run, model: torch.set_default_dtype(torch.float64))
silent = variant(report=False)
evaluates_slowly = variant(time_s=0.1)


@trainable
def narrowed(config, run):
    torch.set_float32_matmul_precision("medium")
    train.function(config, run)


@trainable
def without_scaler(config, run):
    model, optimizer = make(config)
    run.prepare(model, optimizer)
    for inputs, labels in DataLoader(data(), batch_size=16):
        with run.step():
            with run.autocast():
                loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
    run.report(loss=0.0)


class Orthogonal(torch.optim.SGD):
    """Multiplies in BF16 for itself, as Muon does."""

    def step(self, closure=None):
        with torch.no_grad():
            for _ in range(9):
                torch.ones(64, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
        return super().step(closure)


orthogonal = variant(optimizer=lambda model: Orthogonal(model.parameters(), lr=0.1))


def late(counted):
    @trainable
    def turns(config, run):
        model, optimizer = make(config)
        run.prepare(model, optimizer)
        steps = 0
        for _ in run.epochs() if counted else range(99):
            for batch in DataLoader(data(), batch_size=16):
                with run.step():
                    advance(run, model, optimizer, batch, bf16() if steps > 5 else None)
                steps += 1
                if run.should_report:
                    run.report(**evaluate(run, model))

    return turns


turns_to_bf16, turns_to_bf16_uncounted = late(True), late(False)


@trainable
def unprepared(config, run):
    with run.step():
        pass


@trainable
def stepless(config, run):
    run.prepare(*make(config))
    run.report(loss=0.0)


def failing(fault):
    calls = []

    def before(run, model):
        calls.append(1)
        fault(run, model, len(calls))

    return variant(before=before)


def planted(run, model, calls):
    if calls == 3:
        raise KeyError("planted in step 3")


def leaves(run, model, calls):
    raise SystemExit("planted")


def begins_another(run, model, calls):
    with run.step():
        pass


def eats(run, model, calls):
    torch.empty(2**46)  # 256 TiB


raises, exits, nested, hungry = failing(planted), failing(leaves), failing(begins_another), failing(eats)


@trainable
def stepless_epochs(config, run):
    model, optimizer = make(config)
    run.prepare(model, optimizer)
    for _ in run.epochs():
        for batch in DataLoader(data(), batch_size=16):
            advance(run, model, optimizer, batch)
        run.report(**evaluate(run, model))


@trainable
def in_two_phases(config, run):
    """An epoch of its own for what a fine-tuning thaws later."""
    model, optimizer = make(config)
    run.prepare(model, optimizer)
    for length in (1, 99):
        for epoch in run.epochs():
            for batch in DataLoader(data(), batch_size=16):
                with run.step():
                    advance(run, model, optimizer, batch)
            run.report(**evaluate(run, model))
            if epoch + 1 == length:
                break


@trainable
def survives(config, run):
    """Leaves a batch out where it fails."""
    model, optimizer = make(config)
    run.prepare(model, optimizer)
    for _ in run.epochs():
        for number, batch in enumerate(DataLoader(data(), batch_size=16)):
            try:
                with run.step():
                    loss = advance(run, model, optimizer, batch)
                    if number == 1:
                        run.scaler.scale(loss * float("nan"))
                        raise RuntimeError("planted")
            except RuntimeError:
                continue
        run.report(**evaluate(run, model))


@trainable
def turns_unforeseen(config, run):
    """Counts its epochs itself, and goes on in BF16 in the second."""
    model, optimizer = make(config)
    run.prepare(model, optimizer)
    for epoch in range(3):
        for batch in DataLoader(data(), batch_size=16):
            with run.step():
                advance(run, model, optimizer, batch, bf16() if epoch == 1 else None)
        run.report(**evaluate(run, model))


@trainable
def alternates(config, run):
    """Every second step trains another model."""
    model, optimizer = make(config)
    other, its = make(config)
    run.prepare(model, optimizer)
    for _ in run.epochs():
        for _ in range(4):
            for each in ((model, optimizer), (other, its)):
                with run.step():
                    advance(run, *each, data().tensors)
        run.report(**evaluate(run, model))


@trainable
def another_model(config, run):
    (model, optimizer), (other, its) = make(config), make(config)
    run.prepare(model, optimizer)
    with run.step():
        advance(run, other, its, data().tensors)


@trainable
def another_optimizer(config, run):
    run.prepare(make(config)[0], make(config)[1])


@trainable
def reports_words(config, run):
    model, optimizer = make(config)
    run.prepare(model, optimizer)
    with run.step():
        advance(run, model, optimizer, data().tensors)
    run.report(**{config.get("word", "accuracy"): "high"})


@trainable
def diverges(config, run):
    model, optimizer = make(config)
    run.prepare(model, optimizer)
    steps = 0
    for _ in run.epochs():
        for inputs, labels in DataLoader(data(), batch_size=16):
            with run.step():
                steps += 1
                loss = nn.functional.cross_entropy(model(inputs), labels) * (float("nan") if steps > 5 else 1)
                run.scaler.scale(loss).backward()
                optimizer.zero_grad()
        run.report(loss=0.5)


@trainable
def loses_validation(config, run):
    model, optimizer = make(config)
    run.prepare(model, optimizer)
    for _ in run.epochs():
        for batch in DataLoader(data(), batch_size=16):
            with run.step():
                advance(run, model, optimizer, batch)
        run.report(loss=float("nan"))


@trainable
def as_told(config, run):
    model, optimizer = make(config)
    run.prepare(model, optimizer)
    for _ in run.epochs():
        for batch in DataLoader(data(), batch_size=16):
            with run.step():
                advance(run, model, optimizer, batch)
            if run.should_report:
                run.report(**evaluate(run, model))


@trainable
def endless(config, run):
    """Counts no epochs, and never ends by itself."""
    model, optimizer = make(config)
    run.prepare(model, optimizer)
    while True:
        for batch in list(DataLoader(data(), batch_size=16))[:3]:
            with run.step():
                advance(run, model, optimizer, batch)
        run.report(**evaluate(run, model))


@trainable
def brief(config, run):
    model, optimizer = make(config)
    run.prepare(model, optimizer)
    for batch in list(DataLoader(data(), batch_size=16))[:2]:
        with run.step():
            advance(run, model, optimizer, batch)
    run.report(**evaluate(run, model))


@trainable
def cleans_up(config, run):
    try:
        train.function(config, run)
    except Exception:
        raise
    except BaseException as error:
        with open(config["file"], "w") as file:
            file.write(type(error).__name__)
        raise
