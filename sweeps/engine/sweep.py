"""The declaration of a sweep: what it tries, within which budget, and what it confirms."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sweeps.engine.confirm_fields import Confirm, check_confirm
from sweeps.engine.cost_fields import check_costs
from sweeps.engine.fields import BUDGET, CONFIRM, RESOURCES, TRIED, WHERE, about, documented, option, set_fields
from sweeps.engine.resource_fields import check_resources
from sweeps.engine.stop_fields import check_stopping
from sweeps.engine.task_field import check_task, task_name
from sweeps.engine.tracking import check_tracking
from sweeps.search.checks import (
    MOST_RUNS,
    SweepError,
    folder_name,
    one_of,
    precision_names,
    refuse,
    text,
    whole,
)
from sweeps.search.configurations import SEARCHERS, check_searcher
from sweeps.search.domains import Domain, Scalar
from sweeps.search.scheduler_names import SCHEDULERS, check_scheduler
from sweeps.search.space import check_space, space_to_json
from sweeps.search.successive_halving import MODES
from sweeps.search.unsearched import check_unsearched
from trainables.ladder import BASELINES, LADDER
from trainables.routes import DEFAULT, OPTIONS, ROUTES
from trainables.spec import Budget
from trainables.storage import Url, is_url
from trainables.tracking import LIBRARIES

__all__ = ["SCHEDULERS", "STAGES", "Confirm", "Sweep", "SweepError"]

STAGES = ("probe", "search", "confirm")
"""The stages in their order."""

AUTO = "auto"
"""The kernel route that is left to the probe."""

SCHEMA = 1
"""Version of ``sweep.json``."""

DEFAULT_EPOCHS = 10
DEFAULT_REPORTS = 10
"""Reports of a run with a budget in steps, where nothing else is said."""


@documented
@dataclass(frozen=True)
class Sweep:
    """One sweep: a task, a search space, precisions, a budget, and what to confirm."""

    name: str = field(metadata=about(TRIED, "name of the sweep", "NAME"))
    task: str | Callable[[dict[str, Any]], Any] = field(
        metadata=about(TRIED, "what is fine-tuned: module:function or path/to/file.py:function", "TASK")
    )
    space: Mapping[str, Domain | Scalar] = field(
        metadata=about(
            TRIED,
            "a hyperparameter and its domain: uniform:LOW:HIGH, loguniform:LOW:HIGH, quniform:LOW:HIGH:Q, "
            "randint:LOW:HIGH (HIGH excluded), choice:A,B,C, or a constant; repeatable",
            "NAME=DOMAIN",
        )
    )
    precisions: tuple[str, ...] = option(
        ("fp32", "bf16-mixed", "fp16-mixed"), TRIED, f"any of {', '.join(LADDER)}", "P,P,..."
    )
    metric: str | None = option(None, TRIED, "what to rank by, as val_accuracy; else the task's first metric", "NAME")
    mode: Literal["max", "min"] | None = option(None, TRIED, "better is max or min; else min for val_loss", "max|min")
    num_trials: int = option(
        32,
        BUDGET,
        "runs of the search: configurations times precisions; 0 confirms points, or a space of constants",
        "N",
    )
    max_epochs: int | None = option(None, BUDGET, "epochs of a full run; 10 unless max_steps is given", "N")
    max_steps: int | None = option(None, BUDGET, "optimizer steps of a full run, instead of max_epochs", "N")
    report_every_steps: int | None = option(None, BUDGET, "steps between reports; else a tenth of max_steps", "N")
    stop_at: Mapping[str, float] | None = option(
        None, BUDGET, "a metric's value that ends a run of the search, as val_accuracy=0.95; repeatable", "NAME=X"
    )
    patience: int | None = option(None, BUDGET, "reports without a better metric that end a run of the search", "N")
    min_delta: float = option(0.0, BUDGET, "how much better it must be for patience to count it", "X")
    budget_usd: float | None = option(
        None, BUDGET, "what probe and search may cost by usd_per_hour; then what was found is confirmed", "USD"
    )
    budget_hours: float | None = option(
        None, BUDGET, "hours that probe and search may take, waits for nodes included", "H"
    )
    scheduler: str | object = option(
        "asha",
        TRIED,
        "asha, hyperband and median stop runs that fall behind; pbt lets them go on from the weights of the best with "
        "changed hyperparameters; fifo does neither",
        "|".join(SCHEDULERS),
    )
    grace_period: int = option(
        1, BUDGET, "reports before asha and median may stop a run, and from one copying of pbt to the next", "N"
    )
    reduction_factor: int = option(3, BUDGET, "one in that many runs survives each rung of asha and hyperband", "N")
    searcher: str | object = option(
        "random", TRIED, "what chooses configurations; tpe follows results and needs optuna", "|".join(SEARCHERS)
    )
    points: str | None = option(
        None, TRIED, "run exactly these configurations: JSON lines, optionally with precision and seed", "FILE"
    )
    confirm: Confirm | None = field(
        default=Confirm(), metadata=about(CONFIRM, "how the winners are confirmed; None confirms nothing")
    )
    cpus_per_trial: float = option(1, RESOURCES, "CPUs of each run", "X")
    gpus_per_trial: float | None = option(
        None, RESOURCES, "GPUs of each run, 0.5 to share one; else 1 for each worker if there are any", "X"
    )
    workers_per_trial: int = option(
        1, RESOURCES, "processes that train each run together, each with its share of CPUs, GPUs and every batch", "N"
    )
    route: str = option(
        AUTO,
        RESOURCES,
        "kernel route: auto takes the fastest in each precision, as the probe measures it; default is PyTorch's own; "
        f"others are joined by +: {'; '.join(f'{name} {what}' for name, what in OPTIONS.items())}",
        "|".join((AUTO, DEFAULT, *OPTIONS)),
    )
    compile: bool = option(
        False, RESOURCES, "compile training steps by torch.compile; fp8 always is, and needs baselines that are, too"
    )
    fsdp: bool = option(
        False, RESOURCES, "share each model out over the workers of its run, by FSDP2: for those that no device holds"
    )
    usd_per_hour: float | Mapping[str, float] | None = option(
        None,
        RESOURCES,
        "price of a node, of which a run pays for its share; or prices by device or node type, as H100=12.3,cpu=0.4",
        "USD|NAME=USD,...",
    )
    storage: str = option("runs", WHERE, "folder or URL under which results are kept", "PLACE")
    run_name: str | None = option(None, WHERE, "folder of this run; else the sweep's name and a timestamp", "NAME")
    checkpoint_every_s: float = option(30, WHERE, "seconds between two savings of a running trial, 0: every step", "S")
    seed: int = option(0, TRIED, "what all randomness of the sweep derives from", "N")
    stage: Literal["probe", "search", "confirm"] = option("confirm", WHERE, "the last stage to run", "|".join(STAGES))
    address: str | None = option(
        None, WHERE, "a running Ray cluster; else RAY_ADDRESS, the one running here, or a new one", "ADDRESS"
    )
    wandb_project: str | None = option(None, WHERE, "project of W&B's, in which each trial is a run", "NAME")
    track: tuple[str, ...] = option((), WHERE, f"where else trials are runs: any of {', '.join(LIBRARIES)}", "T,T,...")
    resume: bool = option(False, WHERE, "continue the interrupted run run_name, else this sweep's newest")
    dry_run: bool = option(False, WHERE, "print what would run and what it would cost, and stop")

    def __post_init__(self) -> None:
        """Validates and normalizes the fields."""
        set_fields(self, _check_names(self) | _check_counts(self) | check_resources(self) | check_stopping(self))
        set_fields(self, check_tracking(self) | check_costs(self))
        _check_switches(self)
        _check_budget(self)
        _check_search(self)
        check_confirm(self)

    @property
    def baselines(self) -> tuple[str, ...]:
        """The precisions that the others are measured against, weakest first."""
        return tuple(name for name in BASELINES if name in self.precisions)

    @property
    def fixed_route(self) -> str | None:
        """The kernel route of all precisions; ``None`` where the probe finds one for each."""
        return None if self.route == AUTO else self.route

    @property
    def budget(self) -> Budget:
        """How long a full run trains and how often it reports."""
        if self.max_steps is None:
            return Budget(max_epochs=self.max_epochs)
        interval = self.report_every_steps or max(1, self.max_steps // DEFAULT_REPORTS)
        return Budget(max_steps=self.max_steps, report_every_steps=interval)

    @property
    def max_reports(self) -> int:
        """Reports of a full run: the scheduler's ``max_t``."""
        budget = self.budget
        if budget.max_steps is None or budget.report_every_steps is None:
            return budget.max_epochs or DEFAULT_EPOCHS
        return -(-budget.max_steps // budget.report_every_steps)

    def to_json(self) -> dict[str, Any]:
        """The declaration as plain data for ``sweep.json``; objects appear by the name of their class."""
        declared = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return {
            "schema": SCHEMA,
            **declared,
            "task": task_name(self.task),
            "storage": Url(self.storage).shown if is_url(self.storage) else self.storage,
            "space": space_to_json(self.space),
            "precisions": list(self.precisions),
            "baselines": list(self.baselines),
            "report_every_steps": self.budget.report_every_steps,
            "scheduler": _name_of(self.scheduler),
            "searcher": _name_of(self.searcher),
            "confirm": dataclasses.asdict(self.confirm) if self.confirm else None,
        }


def _name_of(choice: object) -> str:
    return choice if isinstance(choice, str) else type(choice).__name__


def _check_names(sweep: Sweep) -> dict[str, object]:
    check_task(sweep.task)
    storage, points = (
        os.fspath(each) if isinstance(each, os.PathLike) else each for each in (sweep.storage, sweep.points)
    )
    return {
        "name": folder_name("name", sweep.name),
        "run_name": sweep.run_name if sweep.run_name is None else folder_name("run_name", sweep.run_name),
        "space": check_space(sweep.space),
        "precisions": precision_names("precisions", sweep.precisions),
        "metric": sweep.metric if sweep.metric is None else text("metric", sweep.metric, "for example val_accuracy"),
        "storage": os.path.expanduser(text("storage", storage, "for example runs or s3://bucket/sweeps")),
        "points": points if points is None else text("points", points, "name a file of JSON lines"),
        "address": sweep.address if sweep.address is None else text("address", sweep.address, "for example auto"),
    }


def _check_counts(sweep: Sweep) -> dict[str, object]:
    remedies = {
        "grace_period": "give a number of reports",
        "max_epochs": "give the epochs of a full run",
        "max_steps": "give the optimizer steps of a full run",
        "report_every_steps": "give the steps from one report to the next",
    }
    given = {name: getattr(sweep, name) for name in remedies}
    if given["max_epochs"] is None and given["max_steps"] is None:
        given["max_epochs"] = DEFAULT_EPOCHS
    counts: dict[str, object] = {
        name: whole(name, value, at_least=1, remedy=remedies[name])
        for name, value in given.items()
        if value is not None or name == "grace_period"
    }
    counts["num_trials"] = whole(
        "num_trials", sweep.num_trials, at_least=0, at_most=MOST_RUNS, remedy="give the number of runs"
    )
    counts["seed"] = whole("seed", sweep.seed, at_least=0, remedy="give a seed such as 0")
    counts["reduction_factor"] = whole(
        "reduction_factor", sweep.reduction_factor, at_least=2, remedy="2, 3 and 4 are usual"
    )
    return counts


def _check_switches(sweep: Sweep) -> None:
    if sweep.mode is not None:
        one_of("mode", sweep.mode, MODES)
    one_of("stage", sweep.stage, STAGES)
    if sweep.route not in (AUTO, *ROUTES):
        names = ", ".join((AUTO, DEFAULT, *OPTIONS))
        refuse("route", f"must be one of {names}", sweep.route, "join several options by +, in this order")
    for name in ("compile", "fsdp", "resume", "dry_run"):
        if not isinstance(getattr(sweep, name), bool):
            refuse(name, "must be True or False", getattr(sweep, name), "leave it out unless wanted")


def _check_budget(sweep: Sweep) -> None:
    if sweep.max_epochs is not None and sweep.max_steps is not None:
        got = {"max_epochs": sweep.max_epochs, "max_steps": sweep.max_steps}
        refuse("max_steps", "must not be given along with max_epochs", got, "give one of them")
    if sweep.report_every_steps is not None and sweep.max_steps is None:
        remedy = "give max_steps, or leave it out: a budget in epochs reports once an epoch"
        refuse("report_every_steps", "needs a budget in steps", sweep.report_every_steps, remedy)


def _check_search(sweep: Sweep) -> None:
    check_scheduler(sweep)
    searches = sweep.num_trials > 0
    check_searcher(sweep.searcher, sweep.space if searches and sweep.points is None else None)
    if not searches:
        check_unsearched(sweep)
