"""The results' format: names, columns and their types. `sweeps` writes by this file and `analysis` reads by it.

Imports nothing but ``typing``, so that writing a result needs no pandas.
"""

from typing import Final, Literal, NoReturn, get_args

SCHEMA_VERSION: Final = 1
"""Version of the format; a reader refuses a newer one and must read every older one."""

SWEEP_FILE: Final = "sweep.json"
JOURNAL_DIR: Final = "journal"
EXAMPLES_DIR: Final = "examples"
CHECKPOINTS_DIR: Final = "checkpoints"

Status = Literal[
    "running",
    "completed",
    "pruned",
    "diverged",
    "out_of_memory",
    "errored",
    "unsupported",
    "excluded",
    "precision_mismatch",
    "lost",
]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)

UNFINISHED: Final[tuple[Status, ...]] = ("running", "lost")
"""Statuses of trials that a resumed run goes on with."""

Stage = Literal["probe", "search", "confirm"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)

Kind = Literal["trial", "report", "timing", "spent"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""What a line of the journal is about; a reader ignores lines of other kinds."""

Verdict = Literal["PASS", "FAIL", "UNDERPOWERED", "INVALID"]
VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)

PRECISIONS: Final = (
    "fp32",
    "tf32",
    "bf16-mixed",
    "fp16-mixed",
    "bf16-true",
    "fp16-true",
    "fp8-tensorwise",
    "fp8-rowwise",
)
"""The ladder, weakest baseline first: a stronger baseline is faster, so it is harder to beat."""

BEST: Final = "best"
"""``config_id`` of the verdicts that compare each precision's best configuration with the baseline's best one."""

CONFIG_PREFIX: Final = "config/"
BEST_PREFIX: Final = "best_"
METRIC_PREFIX: Final = "val_"
"""A key of a trial or report that starts so, with or without `BEST_PREFIX`, is a metric and gets a column."""

TIMESTAMP: Final = "datetime64[us, UTC]"
"""Type of the columns that the journal holds as ISO-8601 strings in UTC."""

TRIAL_COLUMNS: Final = {
    "sweep": "string",
    "stage": "string",
    "trial_id": "string",
    "config_id": "string",
    "block_id": "string",
    "status": "string",
    "status_reason": "string",
    "precision": "string",
    "effective_precision": "string",
    "effective_share": "float64",
    "step_flops": "float64",
    "attention": "string",
    "route": "string",
    "kernel": "string",
    "default_step_ms": "float64",
    "compiled": "boolean",
    "seed": "Int64",
    # config/<name>... stand here
    "epochs": "float64",
    "steps": "Int64",
    "applied_steps": "Int64",
    "skipped_steps": "Int64",
    "train_s": "float64",
    "wall_s": "float64",
    "step_ms": "float64",
    "samples_per_s": "float64",
    "steps_per_s": "float64",
    "applied_steps_per_s": "float64",
    "data_wait_share": "float64",
    "peak_memory_bytes": "Int64",
    "peak_reserved_bytes": "Int64",
    "val_loss": "float64",
    # <metric>..., best_<metric>... stand here
    "loss_scale": "float64",
    "device": "string",
    "num_gpus": "float64",
    "num_cpus": "float64",
    "num_workers": "Int64",
    "node": "string",
    "contended": "boolean",
    "cost_usd": "float64",
    "init_digest": "string",
    "data_digest": "string",
    "checkpoint": "string",
    "started_at": TIMESTAMP,
    "ended_at": TIMESTAMP,
}
"""Columns of `trials` -> pandas dtype. A metric is ``float64``."""

HISTORY_COLUMNS: Final = {
    "sweep": "string",
    "stage": "string",
    "trial_id": "string",
    "epoch": "float64",
    "step": "Int64",
    "train_s": "float64",
    "train_loss": "float64",
    "val_loss": "float64",
    # <metric>... stand here
    "learning_rate": "float64",
    "grad_norm": "float64",
    "loss_scale": "float64",
    "loss_scale_min": "float64",
    "skipped_steps": "Int64",
    "samples_per_s": "float64",
    "steps_per_s": "float64",
    "applied_steps_per_s": "float64",
    "data_wait_share": "float64",
}
"""Columns of `history` -> pandas dtype."""

TIMING_COLUMNS: Final = {
    "sweep": "string",
    "device": "string",
    "node": "string",
    "block_id": "string",
    "config_id": "string",
    "seed": "Int64",
    "precision": "string",
    "is_copy": "boolean",
    "is_default": "boolean",
    "batch_size": "Int64",
    "window_ms": "object",
    "step_ms": "float64",
    "samples_per_s": "float64",
    "peak_memory_bytes": "Int64",
    "peak_reserved_bytes": "Int64",
    "cpus_used": "float64",
    "sm_clock_mhz": "float64",
    "power_w": "float64",
    "power_limit_w": "float64",
    "temperature_c": "float64",
    "throttle_reasons": "string",
    "route": "string",
    "kernel": "string",
    "compiled": "boolean",
    "effective_precision": "string",
    "effective_share": "float64",
    "step_flops": "float64",
    "attention": "string",
    "init_digest": "string",
    "data_digest": "string",
    "contended": "boolean",
    "contention": "string",
    "status": "string",
    "status_reason": "string",
    "cost_usd": "float64",
}
"""Columns of `timings` (a row per block and arm) -> pandas dtype; ``window_ms`` is a list of floats, ``cost_usd`` the
row's equal part of what its block cost."""

ARM_COLUMNS: Final = {
    "sweep": "string",
    "device": "string",
    "config_id": "string",
    "precision": "string",
    "route": "string",
    "kernel": "string",
    "num_timed": "Int64",
    "num_contended": "Int64",
    "step_ms": "float64",
    "samples_per_s": "float64",
    "peak_memory_bytes": "Int64",
    "num_runs": "Int64",
    "val_loss": "float64",
    "metric": "string",
    "value": "float64",
}
"""Columns of `arms` (a row per confirmed configuration and precision) -> pandas dtype."""

COST_COLUMNS: Final = {
    "sweep": "string",
    "stage": "string",
    "num_runs": "Int64",
    "num_known": "Int64",
    "cost_usd": "float64",
}
"""Columns of `costs` (a row per stage) -> pandas dtype."""

VERDICT_COLUMNS: Final = {
    "sweep": "string",
    "device": "string",
    "baseline": "string",
    "precision": "string",
    "config_id": "string",
    "metric": "string",
    "target_speedup": "float64",
    "margin": "float64",
    "num_pairs": "Int64",
    "speedup": "float64",
    "speedup_low": "float64",
    "speedup_high": "float64",
    "speedup_over_default": "float64",
    "metric_delta": "float64",
    "metric_delta_low": "float64",
    "metric_delta_high": "float64",
    "memory_ratio": "float64",
    "time_to_target_ratio": "float64",
    "cost_ratio": "float64",
    "cost_ratio_low": "float64",
    "cost_ratio_high": "float64",
    "aa_low": "float64",
    "aa_high": "float64",
    "num_pairs_needed": "Int64",
    "verdict": "string",
    "reason": "string",
}
"""Columns of `verdicts` -> pandas dtype."""


class ResultsError(ValueError):
    """Results that cannot be read, or a question that they cannot answer; the message is one line."""


def refuse(field: str, condition: str, got: object, remedy: str) -> NoReturn:
    """Raises the error that says why results cannot be read.

    Args:
        field: what is wrong, e.g. a file, and what in it.
        condition: what it has to be.
        got: what it is.
        remedy: what to do about it.

    Raises:
        ResultsError: always.
    """
    shown = repr(got)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    raise ResultsError(f"{field}: {condition}, got {shown}; {remedy}")


def is_metric(key: str) -> bool:
    """Whether a trial's or report's key names a metric, and so becomes a ``float64`` column."""
    return key.removeprefix(BEST_PREFIX).startswith(METRIC_PREFIX) and key.isprintable()
