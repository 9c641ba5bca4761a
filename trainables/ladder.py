"""The ladder of precisions: their names and what they mean. Imports nothing, so that flags can be checked at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Precision:
    """One entry of the ladder.

    Args:
        name: as users write it, e.g. ``"bf16-mixed"``.
        compute: the number format in which matrix products are asked to run: ``float32`` (IEEE), ``tf32``,
            ``bfloat16``, ``float16`` or ``float8``.
        parameters: dtype name of parameters, gradients and optimizer state.
        summary: one phrase for tables and ``--help``.
        not_built: why ampsweep cannot run it yet; ``None`` for all that it can.
    """

    name: str
    compute: str
    parameters: str
    summary: str
    not_built: str | None = None

    @property
    def autocast(self) -> bool:
        """Whether autocast picks the dtype of each operation."""
        return self.compute in ("bfloat16", "float16") and self.parameters == "float32"

    @property
    def scaled(self) -> bool:
        """Whether gradients need a loss scale: FP16's smallest normal number is 6e-5."""
        return self.compute == "float16" and self.parameters == "float32"


_ENTRIES = (
    Precision("fp32", "float32", "float32", "IEEE single precision"),
    Precision("tf32", "tf32", "float32", "FP32 storage, products with 10-bit mantissas (NVIDIA sm_80 and up)"),
    Precision("bf16-mixed", "bfloat16", "float32", "autocast to BF16, FP32 parameters"),
    Precision("fp16-mixed", "float16", "float32", "autocast to FP16 with a loss scale, FP32 parameters"),
    Precision("bf16-true", "bfloat16", "bfloat16", "parameters and optimizer state in BF16"),
    Precision(
        "fp16-true", "float16", "float16", "parameters and optimizer state in FP16", "FP16 parameters are not built yet"
    ),
    Precision("fp8-tensorwise", "float8", "float32", "FP8 linear layers, one scale a tensor", "FP8 is not built yet"),
    Precision("fp8-rowwise", "float8", "float32", "FP8 linear layers, one scale a row", "FP8 is not built yet"),
)

LADDER: Mapping[str, Precision] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Every precision by name, from the widest format to the narrowest."""

BASELINES = ("fp32", "tf32")
"""Precisions that others are measured against, weakest first."""
