"""From what a trial reports to the rows of the results: the one place that maps between the two."""

import datetime
from collections.abc import Mapping
from typing import Any, Literal

from analysis.schema import BEST_PREFIX, Stage, Status
from sweeps.search.plan import PlannedTrial

Row = dict[str, Any]


def now() -> str:
    """The time in UTC, as the results keep it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def started(trial: PlannedTrial, stage: Stage, num_cpus: float, num_gpus: float, num_workers: int = 1) -> Row:
    """A trial that begins."""
    return {
        "trial_id": trial.trial_id,
        "stage": stage,
        "config_id": trial.config_id,
        "block_id": trial.block_id,
        "config": dict(trial.config),
        "precision": trial.precision,
        "seed": trial.seed,
        "status": "running",
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "num_workers": num_workers,
        "started_at": now(),
    }


def changed(trial: PlannedTrial, donor: str | None) -> Row:
    """A trial that goes on with other hyperparameters, from the weights of another trial."""
    return {
        "trial_id": trial.trial_id,
        "config_id": trial.config_id,
        "block_id": trial.block_id,
        "config": dict(trial.config),
        "donor": donor,
        "status": "running",
    }


def ended(
    trial_id: str,
    report: Mapping[str, Any] | None,
    status: Status,
    reason: str | None,
    metric: str,
    mode: Literal["max", "min"],
    cost_usd: float | None = None,
) -> Row:
    """A trial that has ended, with its last report if it made one."""
    row: Row = {"trial_id": trial_id, "status": status, "status_reason": reason, "ended_at": now()}
    row |= {"cost_usd": cost_usd, "unpaid_s": None}  # in place of what it had cost until now
    if report is None:
        return row
    extremes = report["highest"] if mode == "max" else report["lowest"]
    return {
        **{name: report[name] for name in _SAME},
        "epochs": report["epoch"],
        "steps": report["step"],
        **report["metrics"],
        **({BEST_PREFIX + metric: extremes[metric]} if metric in extremes else {}),
        **row,
    }


_SAME = (
    "applied_steps",
    "skipped_steps",
    "train_s",
    "wall_s",
    "step_ms",
    "samples_per_s",
    "steps_per_s",
    "applied_steps_per_s",
    "data_wait_share",
    "loss_scale",
    "route",
    "compiled",
    "effective_precision",
    "effective_share",
    "step_flops",
    "attention",
    "peak_memory_bytes",
    "peak_reserved_bytes",
    "device",
    "node",
    "init_digest",
    "data_digest",
)
"""Columns of ``trials`` that a report has under the same name."""


def reported(stage: Stage, report: Mapping[str, Any]) -> Row:
    """One report of a trial's history."""
    return {
        "trial_id": report["trial_id"],
        "stage": stage,
        "epoch": report["epoch"],
        "step": report["step"],
        "train_s": report["train_s"],
        "train_loss": report["train_loss"],
        **report["metrics"],
        "learning_rate": report["learning_rate"],
        "grad_norm": report["grad_norm"],
        "loss_scale": report["loss_scale"],
        "loss_scale_min": report["loss_scale_min"],
        "skipped_steps": report["skipped_steps"],
        "samples_per_s": report["interval_samples_per_s"],
        "steps_per_s": report["interval_steps_per_s"],
        "applied_steps_per_s": report["interval_applied_steps_per_s"],
        "data_wait_share": report["interval_data_wait_share"],
    }


def probed(
    result: Mapping[str, Any],
    num_cpus: float,
    num_gpus: float,
    num_workers: int = 1,
    cost_usd: float | None = None,
    suffix: str = "",
) -> Row:
    """What the probe found for one precision; ``suffix`` tells device types apart in the name of its row."""
    left_out = ("metrics", "remarks", "fastest_ms", "default_ms", "held_s", "node_ids")
    found = {name: value for name, value in result.items() if name not in left_out}
    found["default_step_ms"] = result.get("default_ms")
    where = {"trial_id": f"probe-{result['precision']}{suffix}", "stage": "probe"}
    resources = {"num_cpus": num_cpus, "num_gpus": num_gpus, "num_workers": num_workers}
    return {**where, **resources, **found, "cost_usd": cost_usd, "started_at": now(), "ended_at": now()}


def never_ran(trial: PlannedTrial, stage: Stage, status: Status, reason: str) -> Row:
    """A trial that was asked for but not started, and why."""
    return {**started(trial, stage, 0, 0, 0), "status": status, "status_reason": reason, "ended_at": now()}
