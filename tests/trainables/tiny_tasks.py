"""Tasks for trials: one that works, and others that fail or misbehave each in its own way."""

import os
import random
import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from trainables import Task

TOUCHED: list[str] = []


def build(config, **fields):
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(inputs, (inputs.sum(1) > 0).long())
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))
    return Task(**{"model": model, "train_set": data, "val_set": data, **fields})


def wide(config):
    """Products that are large enough for oneDNN to be asked for."""
    return build(config, model=nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64)))


def draws_after_building(config):
    task = build(config)
    torch.rand(config["draws"])
    return task


def cross_entropy(outputs, batch):
    return nn.functional.cross_entropy(outputs.float(), batch[1])


def raises_in_build(config):
    raise ValueError("planted\nin build")


def raises_in_step_3(config):
    calls = []

    def loss(outputs, batch):
        calls.extend([1] if torch.is_grad_enabled() else [])
        if len(calls) > 3:  # the first call is the observation's
            raise KeyError("planted in step 3")
        return cross_entropy(outputs, batch)

    return build(config, loss=loss)


def exits(config):
    raise SystemExit("usage: train.py [options]")


def nan_loss(config):
    return build(config, loss=lambda outputs, batch: cross_entropy(outputs, batch) * float("nan"))


def infinite_gradients(config):
    """Under a loss scale of 16 bits they overflow; the loss itself never does."""

    def loss(outputs, batch):
        value = cross_entropy(outputs, batch)
        return value * 1e38 if torch.is_grad_enabled() else value

    return build(config, loss=loss)


def nan_val_loss(config):
    def loss(outputs, batch):
        return cross_entropy(outputs, batch) * (1.0 if torch.is_grad_enabled() else float("nan"))

    return build(config, loss=loss)


class Hungry(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, x):
        return self.layer(x) + torch.empty(2**46)[0]  # 256 TiB


def out_of_memory_in_build(config):
    torch.empty(2**46)


def out_of_memory_in_forward(config):
    return build(config, model=Hungry())


class Liar(nn.Module):
    """Asked for FP32, computes its products in BF16."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.layer(x).float()


def lies(config):
    return build(config, model=Liar())


def vandal(config):
    """Changes every global setting that it can think of and leaves it so."""
    torch.set_default_dtype(torch.float64)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_autocast_enabled("cpu", True)
    torch.set_autocast_cache_enabled(False)
    torch.set_grad_enabled(False)
    torch.set_num_threads(2)
    torch.manual_seed(999)
    np.random.seed(999)  # noqa: NPY002 - as user code does
    random.seed(999)
    os.environ["PLANTED"] = "1"
    os.environ.pop("HOME", None)
    os.chdir("/")
    return build(config) if not config.get("fails") else None


def slow_below_fp32(config):
    """A precision of 16 bits is 30 ms slower a step."""

    def loss(outputs, batch):
        if torch.is_autocast_enabled("cpu"):
            time.sleep(0.03)
        return cross_entropy(outputs, batch)

    return build(config, loss=loss)


def fails_in_bf16(config):
    def loss(outputs, batch):
        if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16:
            raise RuntimeError("planted under BF16")
        return cross_entropy(outputs, batch)

    return build(config, loss=loss)


def kills_its_process(config):
    if config["how"] == "exit":
        os._exit(config["code"])
    os.kill(os.getpid(), config["signal"])


def leaves_a_mark(config):
    """Fails where another job was here before; prints and reads where it should not."""
    here = str(os.getpid())
    if (TOUCHED and TOUCHED[0] != here) or os.environ.get("PLANTED", here) != here:
        raise RuntimeError("this process is not clean")
    TOUCHED.append(here)
    os.environ["PLANTED"] = here
    print('{"status": "not an answer"}', flush=True)
    os.write(1, b'{"status": "not an answer either"}\n')
    try:
        input()
    except EOFError:
        return build(config)
    raise RuntimeError("standard input was there to be read")


class Images(nn.Module):
    """A network of convolutions that behaves otherwise where its weights have their channels last."""

    def __init__(self, last="", first=""):
        super().__init__()
        self.convolutions = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(8 * 36, 2)
        self.last, self.first = last, first

    def forward(self, x):
        weight = self.convolutions[2].weight
        is_last = not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)
        behaviour = self.last if is_last else self.first
        if behaviour == "slow":
            time.sleep(0.03)
        if behaviour == "no evaluation" and not self.training:
            raise AssertionError("planted")
        with torch.autocast("cpu", enabled=torch.is_autocast_enabled("cpu") and behaviour != "fp32"):
            images = self.convolutions(x)
            images = nn.functional.dropout(images, 0.1, self.training) if behaviour == "drops" else images
            return self.head(images.view(len(x), -1) if behaviour == "views" else images.flatten(1))


def images(config):
    inputs = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(inputs, (inputs.sum((1, 2, 3)) > 0).long())
    return build(config, model=Images(config.get("last"), config.get("first")), train_set=data, val_set=data)


def products(config):
    """Nothing but matrix products, which the compiler hands on: it needs no C++ compiler for them but to cast."""
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Linear(16, 2, bias=False))
    return build(config, model=model)


class Tells(nn.Module):
    """Gives zeros where it was compiled."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 2, bias=False)

    def forward(self, x):
        return self.layer(torch.zeros_like(x) if torch.compiler.is_compiling() else x)


def tells(config):
    return build(config, model=Tells())


class Turns(nn.Module):
    """Computes in BF16 once it is told to."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 2, bias=False)
        self.turned = False

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.turned):
            return self.layer(x)


def turns(config):
    """Its loss tells it to after the last of 8 steps, which the compiler thus never sees."""
    model, calls = Turns(), []

    def loss(outputs, batch):
        calls.extend([1] if torch.is_grad_enabled() else [])
        model.turned = len(calls) >= 10  # the first is observed, the second compiled
        return cross_entropy(outputs, batch)

    return build(config, model=model, loss=loss)


def uncompiled(config):
    """PyTorch leaves its model out of all that it compiles, and says nothing."""
    task = products(config)
    task.model.forward = torch.compiler.disable(task.model.forward)
    return task


def compiles_in_building(config):
    """Inputs of several shapes go through a function that is compiled."""
    double = torch.compile(lambda x: x + x, backend="eager", dynamic=False)
    for size in (2, 3, 4):
        assert double(torch.ones(size)).sum() == 2 * size
    return products(config)


class Sequences(nn.Module):
    """One logit pair a position, by a loop over the positions or all at once."""

    def __init__(self, by_position):
        super().__init__()
        self.layer = nn.Linear(8, 2, bias=False)
        self.by_position = by_position

    def forward(self, x):
        if not self.by_position:
            return self.layer(x)
        return torch.stack([self.layer(x[:, i]) for i in range(x.shape[1])], 1)


def sequences(config):
    """Every batch has another length, as where each is padded to its longest item."""
    lengths = iter(range(2, 1000))

    def collate(items):
        rows, labels = torch.stack([row for row, _ in items]), torch.stack([label for _, label in items])
        length = next(lengths)
        return rows[:, None].expand(-1, length, -1).clone(), labels[:, None].expand(-1, length).clone()

    return build(config, model=Sequences(config["by_position"]), collate=collate)


def drops(config):
    """The compiler has to generate code for it."""
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Dropout(0.5), nn.Linear(16, 2, bias=False))
    return build(config, model=model)
