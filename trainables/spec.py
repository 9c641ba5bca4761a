"""What one trial is asked to do. Plain data that travels to a worker process; imports no torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from trainables.ladder import Precision
from trainables.loading import TaskSource
from trainables.meeting import Meeting
from trainables.routes import DEFAULT
from trainables.stopping import Stopping
from trainables.storage import Url, place
from trainables.tracking import Tracking

STATE_FILE = "state.pt"
"""In the folder of a trial that still runs: all that it goes on from."""

WEIGHTS_FILE = "weights.pt"
"""In the folder of a trial that completed: its model's ``state_dict``."""

EXPORT_FILE, TASK_FILE = "export.json", "task.py"
"""Beside the weights in an exported folder: what they are, and the task where it was a file."""

PICKLE_FILE = "task.pkl"
"""In the folder of a run, and beside exported weights: the task where it was a function without a file."""


@dataclass(frozen=True)
class Budget:
    """How long a trial trains and how often it reports.

    Args:
        max_epochs: passes over the training set; ``None`` where ``max_steps`` is given.
        max_steps: optimizer steps; ``None`` where ``max_epochs`` is given.
        report_every_steps: steps between reports; ``None`` reports once an epoch.
    """

    max_epochs: int | None = None
    max_steps: int | None = None
    report_every_steps: int | None = None

    def num_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps in all."""
        return self.max_steps if self.max_steps is not None else (self.max_epochs or 1) * steps_per_epoch

    def interval(self, steps_per_epoch: int) -> int:
        """Optimizer steps from one report to the next."""
        return self.report_every_steps or steps_per_epoch


@dataclass(frozen=True)
class Checkpoints:
    """Where the trials of a run are saved, and which of their weights are kept.

    Args:
        folder: of the run's checkpoints, seen by all nodes; a trial's own lie in a folder of its name.
        every_s: seconds between two savings of a running trial, at least 0.
        metric, mode: what completed trials are compared by.
    """

    folder: str
    every_s: float
    metric: str
    mode: Literal["max", "min"]

    def beats(self, value: float, other: float | None) -> bool:
        """Whether a metric is known and better than another, or the other unknown."""
        better = other is None or (value > other if self.mode == "max" else value < other)
        return math.isfinite(value) and better


@dataclass(frozen=True)
class TrialSpec:
    """One training run: a configuration, a precision and a seed, on a task, within a budget.

    Args:
        trial_id: unique within the sweep.
        task: where the task comes from.
        config: hyperparameters, without precision and seed.
        precision: a name of the ladder.
        seed: seeds initial weights, data order and everything drawn later.
        budget: when to report and when to stop.
        num_cpus: threads for the CPU's share of the work, of all workers together.
        num_gpus: GPUs of this trial; 0 trains on the CPU.
        num_workers: processes that train it together, at least 1.
        route: one of :data:`trainables.routes.ROUTES`.
        compile: whether training steps are compiled, as some precisions always are.
        fsdp: whether several workers share out the model, its gradients and optimizer state, instead of holding all of
            it each.
        examples_of: the metric whose value per validation example the last report carries; ``None`` for none.
        checkpoints: where it is saved; ``None`` saves nothing.
        to_beat: the best metric of a completed trial so far: weights that do not beat it are not kept.
        stopping: when it ends before its budget; ``None`` never ends it so.
        tracking: where trackers such as W&B are told of it; ``None`` for none.
        routes: device type -> the route to take there instead, for a trial that may run on any.
    """

    trial_id: str
    task: TaskSource
    config: Mapping[str, Any]
    precision: str
    seed: int
    budget: Budget
    num_cpus: float = 1
    num_gpus: float = 0
    num_workers: int = 1
    route: str = DEFAULT
    compile: bool = False
    fsdp: bool = False
    examples_of: str | None = None
    checkpoints: Checkpoints | None = None
    to_beat: float | None = None
    stopping: Stopping | None = None
    tracking: Tracking | None = None
    routes: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_threads(self) -> int:
        """Threads that an operation on the CPU may use, in each worker."""
        return max(1, int(self.num_cpus / self.num_workers))

    def compiles(self, precision: Precision) -> bool:
        """Whether steps in a precision are compiled."""
        return self.compile or precision.needs_compile

    def on(self, device: str) -> "TrialSpec":
        """The same trial once its device type is known, by the route that is to be taken there."""
        return replace(self, route=self.routes.get(device, self.route), routes={})

    @property
    def checkpoint_folder(self) -> Path | Url | None:
        """Where this trial is saved."""
        return None if self.checkpoints is None else place(self.checkpoints.folder) / self.trial_id

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as :meth:`from_dict` takes it."""
        return asdict(self) | {"config": dict(self.config), "routes": dict(self.routes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TrialSpec":
        """The trial that :meth:`to_dict` described."""
        parts: dict[str, Any] = {"task": TaskSource(**data["task"]), "budget": Budget(**data["budget"])}
        if data.get("checkpoints") is not None:
            parts["checkpoints"] = Checkpoints(**data["checkpoints"])
        if data.get("stopping") is not None:
            parts["stopping"] = Stopping(**data["stopping"])
        if data.get("tracking") is not None:
            parts["tracking"] = Tracking(**data["tracking"])
        return cls(**{**data, **parts})


@dataclass(frozen=True)
class TimingJob:
    """A block to be timed: one configuration and seed in several precisions.

    Args:
        trial: configuration, seed, task and resources; its precision, route and budget are not used.
        precisions: the arms; the first is the baseline, which is timed a second time as a copy (A/A), and a third time
            by the default route where its own is another.
        routes: precision -> its kernel route; the default one where it is not named.
        windows: of each arm, at least 1.
        meeting: where the trial's workers meet, each of which times the block; ``None`` where it has one.
    """

    trial: TrialSpec
    precisions: tuple[str, ...]
    routes: Mapping[str, str] = field(default_factory=dict)
    windows: int = 8
    meeting: Meeting | None = None

    def arm(self, precision: str, by_default: bool = False) -> TrialSpec:
        """The trial in one precision, by its route or by the default one."""
        route = DEFAULT if by_default else self.routes.get(precision, DEFAULT)
        return replace(self.trial, precision=precision, route=route)

    def at(self, meeting: Meeting, number: int) -> "TimingJob":
        """The job for one of several workers, which meet for each job anew; ``number`` tells the jobs apart."""
        return replace(self, meeting=replace(meeting, name=f"{meeting.name}/{number}"))

    def to_json(self) -> str:
        """One line, as :meth:`from_json` takes it."""
        return json.dumps(asdict(self) | {"trial": self.trial.to_dict(), "routes": dict(self.routes)})

    @classmethod
    def from_json(cls, line: str) -> "TimingJob":
        """The job that :meth:`to_json` wrote."""
        data = json.loads(line)
        meeting = Meeting(**data["meeting"]) if data["meeting"] else None
        trial, precisions = TrialSpec.from_dict(data["trial"]), tuple(data["precisions"])
        return cls(trial, precisions, data["routes"], data["windows"], meeting)
