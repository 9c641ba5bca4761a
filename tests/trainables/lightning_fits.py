"""Tiny models and fits for Lightning's tests, and what W&B wrote into a run's file."""

import json
import struct
import time
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytorch_lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Steps:
    """An MLP that keeps its losses and the dtypes inside its step; its loss is infinite in chosen steps.

    Args:
        overflows: numbers of the calls of ``training_step`` whose gradients overflow.
        optimizer: makes the optimizer of some parameters.
        net: instead of the MLP from (8,) to 2 classes.
    """

    def __init__(self, overflows: Any = (), optimizer: Any = None, net: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        mlp = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))
        self.net = mlp if net is None else net
        self.overflows, self.make_optimizer = set(overflows), optimizer or torch.optim.AdamW
        self.losses: list[float] = []
        self.dtypes: set[torch.dtype] = set()
        self.calls = 0

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor | None:
        logits = self.net(batch[0])
        self.dtypes.add(logits.dtype)
        loss = nn.functional.cross_entropy(logits.float(), batch[1])
        self.losses.append(float(loss.detach()))
        self.calls += 1
        return loss * float("inf") if self.calls - 1 in self.overflows else loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.parameters(), lr=0.02)


class Classifier(Steps, lightning.LightningModule):
    """For trainers of ``lightning``."""


class OlderClassifier(Steps, pytorch_lightning.LightningModule):
    """For trainers of ``pytorch_lightning``."""


class Witness(lightning.Callback):
    """Keeps, of every batch, what the trainer itself says after it: (global step, loss scale, a weight's sum)."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float | None, float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        scale = None if trainer.scaler is None else trainer.scaler.get_scale()
        weight = next(pl_module.parameters()).detach().double().sum()
        self.rows.append((trainer.global_step, scale, float(weight)))


def fp16_on_cpu(package: types.ModuleType = lightning, **scaler: Any) -> Any:
    """FP16 by autocast with a real scaler: what Lightning's string turns into BF16 on a CPU."""
    return package.plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", **scaler))


def batches(num_items: int = 64) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(num_items, 8, generator=generator)
    return DataLoader(TensorDataset(inputs, (inputs.sum(1) > 0).long()), batch_size=8)


def fit(
    model: lightning.LightningModule,
    *callbacks: Any,
    package: types.ModuleType = lightning,
    ckpt_path: Path | None = None,
    **arguments: Any,
) -> lightning.Trainer:
    """Fits on the CPU, with nothing that a test does not ask for."""
    plain: dict[str, Any] = {"logger": False, "max_steps": 8, "max_epochs": -1}
    off = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        trainer = package.Trainer(accelerator="cpu", devices=1, callbacks=list(callbacks), **off, **plain | arguments)
        trainer.fit(model, batches(), ckpt_path=ckpt_path, weights_only=None if ckpt_path is None else False)
    return trainer


def logged(folder: Path) -> list[dict[str, Any]]:
    """The history rows in the file of the one offline run below a folder, once W&B has written its end."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("**/offline-run*/*.wandb")
    records: list[Record] = []
    until = time.monotonic() + 60
    while not any(record.HasField("exit") for record in records):
        assert time.monotonic() < until, "W&B did not finish its file"
        time.sleep(0.02)
        records = [Record.FromString(record) for record in leveldb_records(path.read_bytes())]
    rows = (record.history.item for record in records if record.HasField("history"))
    return [{"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row} for row in rows]


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format with W&B's header of 7 bytes, as far as it has been written."""
    assert data[:4] in (b":W&B", b"")
    offset, record = 7, b""
    while offset + 7 <= len(data):
        if 32768 - offset % 32768 < 7:  # no header begins in the last bytes of a block
            offset += 32768 - offset % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + 7])
        record += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4) and offset <= len(data):  # whole, or the last part of one
            yield record
            record = b""
