"""Writes results folders by hand: the journal of a sweep, its timings and its arrays."""

import json
from pathlib import Path
from typing import Any

import numpy as np

DECLARATION = {
    "schema": 1,
    "name": "digits",
    "run_name": "digits-1",
    "metric": "val_accuracy",
    "mode": "max",
    "precisions": ["fp32", "bf16-mixed"],
    "baselines": ["fp32"],
    "seed": 0,
    "space": {},
    "confirm": {"top_k": 1, "num_seeds": 6, "target_speedup": 1.5, "margin": 0.01},
}

Record = dict[str, Any]


def write_sweep(folder: Path, *segments: list[Record], **declaration: Any) -> Path:
    """Write a sweep's folder; each segment becomes a file of the journal, in this order."""
    (folder / "journal").mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps(DECLARATION | declaration))
    for number, records in enumerate(segments, 1):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "journal" / f"20261123T101500-7-{number}.jsonl").write_text(text)
    return folder


def trial(trial_id: str, **columns: Any) -> Record:
    return {"kind": "trial", "trial_id": trial_id, **columns}


def run(config_id: str, seed: int, precision: str, metric: float | None, **columns: Any) -> Record:
    """A completed trial of the confirm stage, with the digests of its block."""
    record = {
        "stage": "confirm",
        "config_id": config_id,
        "block_id": f"{config_id}-{seed}",
        "seed": seed,
        "precision": precision,
        "effective_precision": precision,
        "status": "completed",
        "device": "H200",
        "val_accuracy": metric,
        "init_digest": f"init-{config_id}-{seed}",
        "data_digest": f"data-{config_id}-{seed}",
    }
    return trial(f"confirm-{config_id}-{seed}-{precision}", **(record | columns))


def arm(precision: str, window_ms: list[float], is_copy: bool = False, **columns: Any) -> Record:
    record = {"precision": precision, "is_copy": is_copy, "window_ms": window_ms, "effective_precision": precision}
    digests = {"init_digest": "i", "data_digest": "d"}
    return record | digests | {"effective_share": 1.0, "peak_memory_bytes": 1000} | columns


def timing(config: str, seed: int, arms: list[Record], **columns: Any) -> Record:
    """A completed timing process."""
    record = {"kind": "timing", "block_id": f"{config}-{seed}", "config_id": config, "seed": seed, "device": "H200"}
    return record | {"status": "completed", "contended": False, "batch_size": 64, "arms": arms} | columns


def write_examples(folder: Path, trial_id: str, values: Any) -> None:
    (folder / "examples").mkdir(exist_ok=True)
    np.save(folder / "examples" / f"{trial_id}.npy", np.asarray(values, dtype=np.float64))
