"""Rates of matrix products by number format: what shares of a rate are shares of."""

from collections.abc import Sequence

import torch

from benchmarks.gpu.record import Row
from trainables.ladder import Precision
from trainables.rates import FORMATS, MatrixRate, matrix_rates

ITEM = "matrix"


def measure_rates(device: torch.device, seconds: float) -> list[Row]:
    """A row for every format, with what ran in it by the canary."""
    return [_row(rate) for rate in matrix_rates(device, seconds)]


def _row(rate: MatrixRate) -> Row:
    if rate.reason is not None:
        return Row(ITEM, rate.format, "unsupported", rate.reason)
    assert rate.size is not None
    assert rate.flops_per_s is not None
    note = f"{rate.size} x {rate.size}; median {rate.flops_per_s / 1e12:.4g}; {rate.kernel or 'library unknown'}"
    return Row(ITEM, rate.format, note=note, flops_per_s=rate.best_flops_per_s, effective=rate.ran)


def rate_of(precision: Precision, rows: Sequence[Row]) -> float | None:
    """The best rate measured in a precision's format, FLOP/s; ``None`` where there is none."""
    format_of = {arithmetic: name for name, arithmetic in FORMATS.items()}
    found = [row for row in rows if row.item == ITEM and row.arm == format_of[precision.compute]]
    return found[0].flops_per_s if found else None
