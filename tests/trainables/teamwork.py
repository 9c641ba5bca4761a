"""What the workers of a trial do in tests: called in a process each, and picklable by name."""

import dataclasses
import os
import signal
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import trainables.probe as probing
from trainables import Task, pairs
from trainables.evaluation import Evaluator
from trainables.hyperparameters import Hyperparameters
from trainables.ladder import LADDER
from trainables.loop import Loop
from trainables.meeting import Meeting
from trainables.precision import numerics
from trainables.sharded import held, whole
from trainables.spec import TimingJob, TrialSpec
from trainables.team import Alarm, meet
from trainables.trial import Trial

CPU = torch.device("cpu")


class Noisy(Dataset[Any]):
    """Items that draw from torch's generator, as augmentation does."""

    def __init__(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inputs[index] + 0.1 * torch.randn(8), self.labels[index]


class Spare(nn.Module):
    """A model with a layer that no step uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        self.spare = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class Counting:
    """A metric object without a way of its own to gather what other workers have seen."""

    def __init__(self) -> None:
        self.right = self.seen = 0

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self.right += int((logits.argmax(-1) == labels).sum())
        self.seen += len(labels)

    def compute(self) -> float:
        return self.right / self.seen


def right(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
    """A metric with a value per example."""
    return (outputs.argmax(-1) == batch[1]).double()


def share(outputs: torch.Tensor, batch: Any) -> tuple[torch.Tensor, int]:
    """A metric in sums and counts."""
    return outputs.argmax(-1).sum(), len(outputs)


def rank() -> int:
    """Of this worker."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def data(dtype: torch.dtype = torch.float32, num_items: int = 88) -> TensorDataset:
    inputs = torch.randn(num_items, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    return TensorDataset(inputs, (inputs.sum(1) > 0).long())


def build(config: dict[str, Any]) -> Task:
    """A task that does as its configuration says."""
    fault, at, calls = config.get("fault"), config.get("at", 0), []

    def loss(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        calls.extend([1] if torch.is_grad_enabled() else [])
        if len(calls) == at and fault == "leave":
            raise KeyboardInterrupt
        if len(calls) == at and rank() == 1 and fault == "raise":
            raise ValueError("planted")
        if len(calls) == at and rank() == 1 and fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.functional.cross_entropy(outputs.float(), batch[1])

    if fault == "weights":
        torch.manual_seed(rank())
    if config.get("noise"):
        model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))
        return Task(model, Noisy(*data().tensors), data(num_items=41), loss=loss)
    model = Liar() if fault == "lie" else nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    return Task(model, data(), data(num_items=41), loss=loss)


class Liar(nn.Module):
    """Asked for FP32, computes in BF16 in one of the workers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=rank() == 1):
            return self.layer(x).float()


def train(
    meeting: Meeting | None,
    dtype: torch.dtype,
    num_steps: int,
    hyper: dict[str, Any],
    precision: str = "fp32",
    fsdp: bool = False,
    model: type[nn.Module] = Spare,
) -> dict[str, Any]:
    """Trains a loop, and what it came to."""
    torch.set_num_threads(1)
    with meet(meeting, CPU) as team, numerics(LADDER[precision]):
        torch.manual_seed(7)
        task = Task(model().to(dtype), data(dtype, 64), data(dtype, 41))
        loop = Loop(task, Hyperparameters(**hyper), LADDER[precision], 3, CPU, num_steps, team=team, is_sharded=fsdp)
        if meeting is not None and not fsdp:
            loop.join(has_unused=True)
        progress = loop.train(num_steps)
        kept = [value for moments in loop.optimizer.state.values() for value in moments.values()]
        return {
            "held": sum(held(tensor).numel() for tensor in (*loop.model.parameters(), *kept)),
            "weights": torch.cat([whole(p.detach()).flatten() for p in loop.model.parameters()]),
            "progress": dataclasses.replace(progress, waited_s=0.0),  # each has its own
            "digest": loop.data.digest(),
        }


def evaluate(meeting: Meeting | None, metrics: dict[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Evaluates a model that has not been trained."""
    torch.set_num_threads(1)
    with meet(meeting, CPU) as team, numerics(LADDER["fp32"]):
        torch.manual_seed(7)
        task = Task(Spare(), data(num_items=64), data(num_items=41), metrics=metrics)
        return Evaluator(Loop(task, Hyperparameters(batch_size=8), LADDER["fp32"], 3, CPU, team=team)).evaluate()


def run(meeting: Meeting | None, spec: TrialSpec) -> list[dict[str, Any]]:
    """Runs a trial to its end, or until it is left."""
    made = []
    try:
        for report in Trial(spec, meeting).reports():
            made.append(report.to_dict())
    except KeyboardInterrupt:
        pass
    return made


def probe_all(meeting: Meeting | None, spec: TrialSpec, precisions: list[str]) -> list[Any]:
    """Probes precisions, by few steps of each."""
    probing.MAX_STEPS = 10
    return list(probing.probe(spec, precisions, None, meeting))


def time_arms(meeting: Meeting, spec: TrialSpec) -> dict[str, Any]:
    """Times a block in short windows."""
    pairs.MIN_WINDOW_MS = 1.0
    return pairs.time_block(TimingJob(spec, ("fp32", "bf16-mixed"), windows=2).at(meeting, 0))


def ring(meeting: Meeting, after_s: float) -> int:
    """After how many calls an alarm rings, set to another time in each worker."""
    with meet(meeting, CPU) as team:
        alarm = Alarm(team, after_s if team.is_first else 1000 * after_s)
        calls = 1
        while not alarm.is_due:
            calls += 1
        return calls


class Block(nn.Module):
    """A residual block with a branch that is only sometimes trained."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(3 * width, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Stack(nn.Module):
    """Blocks between an embedding and a head; the middle block stays as it is where ``frozen``."""

    def __init__(self, frozen: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 10)
        self.blocks = nn.ModuleList([Block(10, dropout) for _ in range(3)])
        self.norm = nn.BatchNorm1d(10, momentum=None) if dropout else nn.LayerNorm(10)
        self.head = nn.Linear(10, 2, bias=False)
        self.blocks[1].requires_grad_(not frozen)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def build_stack(config: dict[str, Any]) -> Task:
    """A task whose model has blocks; it can be left in the middle."""
    calls: list[int] = []

    def loss(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        calls.extend([1] if torch.is_grad_enabled() else [])
        if len(calls) == config.get("at", 0):
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(outputs.float(), batch[1])

    stack = Stack(bool(config.get("frozen")), config.get("dropout", 0.0))
    return Task(stack, data(), data(num_items=41), loss=loss)


def build_with_forward(config: dict[str, Any]) -> Task:
    """A task that calls its model itself."""
    return dataclasses.replace(build_stack(config), forward=lambda model, batch: model(batch[0]))


class FrozenStack(Stack):
    """With a block in the middle that does not train."""

    def __init__(self) -> None:
        super().__init__(frozen=True)


class SteepStack(Stack):
    """Whose gradients overflow in FP16 at the first loss scale."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.head.weight *= 20


def save_and_load(meeting: Meeting, ranks: list[int]) -> float:
    """How far weights and moments are from what was saved, in a process that has the rank that its parity gives it."""
    rank = ranks[os.getpid() == min(_pids(meeting))]
    with meet(dataclasses.replace(meeting, rank=rank, name="turned"), CPU) as team, numerics(LADDER["fp32"]):
        loops = []
        for seed in (7, 8):
            torch.manual_seed(seed)
            task = Task(Stack(), data(num_items=64), data(num_items=41))
            loops.append(Loop(task, Hyperparameters(batch_size=16), LADDER["fp32"], 3, CPU, team=team, is_sharded=True))
            loops[-1].train(3)
        before, after = loops
        state = team.agree(before.state_dict())
        after.load_state_dict(state)
        found = team.agree(after.state_dict())
        pairs = [(found["model"][name], value) for name, value in state["model"].items()]
        for index, moments in state["optimizer"].items():
            pairs += [(found["optimizer"][index][name], value) for name, value in moments.items()]
        return max(float((one - other).abs().max()) for one, other in pairs)


def _pids(meeting: Meeting) -> list[int]:
    with meet(meeting, CPU) as team:
        return team.gather(os.getpid())
