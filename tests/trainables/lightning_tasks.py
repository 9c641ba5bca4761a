"""Lightning modules as tasks: digits of two classes, and modules that need what only a Trainer gives."""

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision, MulticlassAccuracy, MulticlassF1Score


def points(num=80):
    inputs = torch.randn(num, 8, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, (inputs.sum(1) > 0).long())


class Net(LightningModule):
    """Batches of 16 in training and of 24 in validation, the last of which is smaller."""

    def __init__(self, hidden=16, lr=1e-2, momentum=0.9):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, 2))
        self.accuracy, self.f1 = MulticlassAccuracy(2, average="micro"), MulticlassF1Score(2)
        self.seen, self.validated = [], []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        self.seen.append((self.current_epoch, self.global_step, batch_idx))
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.accuracy.update(logits, y)
        right = (logits.argmax(1) == y).float().mean()
        self.log_dict({"val_loss": nn.functional.cross_entropy(logits, y), "val/right": right}, prog_bar=True)
        self.log("val_accuracy", self.accuracy)
        self.log("val_largest", float(len(y)), reduce_fx="max")
        self.log("val_batches_f1", self.f1(logits, y))  # a mean of what the batches come to
        assert self.trainer.validating

    def on_validation_epoch_end(self):
        self.log("val_f1", self.f1.compute())
        self.f1.reset()
        self.validated.append((self.current_epoch, self.global_step))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.net.parameters(), lr=self.hparams.lr, momentum=self.hparams.momentum)
        halved = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": halved, "interval": "epoch"}}

    def train_dataloader(self):
        return DataLoader(points(), batch_size=16, shuffle=True)

    def val_dataloader(self):
        return DataLoader(points(), batch_size=24)


class ByStep(Net):
    """A schedule of every second step and an optimizer in a pair of lists."""

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        return [optimizer], [{"scheduler": cosine, "interval": "step", "frequency": 2}]


class Reconstructs(Net):
    """Inputs alone, which a loader gives in a list of one."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 8))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.mse_loss(self(batch[0]), batch[0])
        self.seen.append((self.current_epoch, self.global_step, batch_idx))
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.mse_loss(self(batch[0]), batch[0]))

    def on_validation_epoch_end(self):
        self.validated.append((self.current_epoch, self.global_step))

    def train_dataloader(self):
        return DataLoader(TensorDataset(points().tensors[0]), batch_size=16, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(points().tensors[0]), batch_size=24)


class PartlyFrozen(Net):
    """A body that was put in evaluation, as one does with pretrained ones whose statistics are to stay."""

    def __init__(self):
        super().__init__()
        body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5)).eval()
        self.net = nn.Sequential(body, nn.ReLU(), nn.Linear(16, 2))


class OneCycle(Net):
    """A schedule over the whole run, as Lightning's documentation has it."""

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        num_steps = self.trainer.estimated_stepping_batches
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=num_steps)
        slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}, slower]


class Collecting(Net):
    """Metrics that keep all predictions, two of which share them."""

    def __init__(self):
        super().__init__()
        self.trained = BinaryAUROC()
        self.valid = MetricCollection({"auroc": BinaryAUROC(), "ap": BinaryAveragePrecision()}, prefix="val_")

    def training_step(self, batch, batch_idx):
        self.trained.update(self(batch[0])[:, 1].detach(), batch[1])
        self.log("train_auroc", self.trained, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.valid.update(self(batch[0])[:, 1], batch[1])
        self.log_dict(self.valid)


class Plain(LightningModule):
    """No optimizer of its own, one argument a step, the loss returned as it is, and no metric."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def training_step(self, batch):
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    validation_step = training_step
    train_dataloader, val_dataloader = Net.train_dataloader, Net.val_dataloader


class Points(LightningDataModule):
    def setup(self, stage):
        self.data = points()

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=20)

    def val_dataloader(self):
        return [DataLoader(self.data, batch_size=20)]


class Dataless(Plain):
    train_dataloader = LightningModule.train_dataloader


def with_data_module(config):
    return Dataless(), Points()


class Augmented(Points):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] + 1, batch[1]


def with_changed_batches(config):
    return Dataless(), Augmented()


class Asking(Dataless):
    """Asks its trainer for what is known without one."""

    def setup(self, stage):
        self.print(stage)
        assert (self.global_rank, self.local_rank, self.trainer.world_size) == (0, 0, 1)
        self.layer = nn.Linear(8, len(self.trainer.datamodule.data.tensors))


def asking(config):
    return Asking(), Points()


class Fetched(Net):
    """Items one by one, by two workers."""

    def train_dataloader(self):
        return DataLoader(torch.utils.data.Subset(points(), range(64)), batch_size=16, num_workers=2)


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class TwoOptimizers(Net):
    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), lr=0.1), torch.optim.SGD(self.parameters(), lr=0.2)]


class OnPlateau(Net):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


class Unscheduled(Net):
    def configure_optimizers(self):
        return {"optimizer": torch.optim.SGD(self.parameters(), lr=0.1), "lr_scheduler": {"interval": "step"}}


class Hooked(Net):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        pass


class Transferring(Net):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch


class Untrained(LightningModule):
    train_dataloader, val_dataloader = Net.train_dataloader, Net.val_dataloader


class Streamed(Net):
    def train_dataloader(self):
        return DataLoader(torch.utils.data.ChainDataset([]), batch_size=16)


class Sampled(Net):
    def train_dataloader(self):
        sampler = torch.utils.data.WeightedRandomSampler(torch.ones(80), 80)
        return DataLoader(points(), batch_size=16, sampler=sampler)


class NeedsTrainer(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1 / self.trainer.num_nodes)


class Lossless(Net):
    def validation_step(self, batch, batch_idx):
        self.f1(self(batch[0]), batch[1])


class Wordless(Net):
    def training_step(self, batch, batch_idx):
        self.log("loss", 1.0)
