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
        scaling: of ``float8``: ``tensorwise`` or ``rowwise``; empty for all other formats.
    """

    name: str
    compute: str
    parameters: str
    summary: str
    scaling: str = ""

    @property
    def format(self) -> str:
        """What an observed step calls products in its format: ``compute``, of FP8 with the scaling."""
        return f"{self.compute}-{self.scaling}" if self.scaling else self.compute

    @property
    def autocast(self) -> str | None:
        """The dtype that autocast picks for matrix products: BF16 beside FP8's layers; ``None`` without autocast."""
        if self.parameters != "float32":
            return None
        return {"bfloat16": "bfloat16", "float16": "float16", "float8": "bfloat16"}.get(self.compute)

    @property
    def needs_compile(self) -> bool:
        """Whether it is compiled in any case: FP8's scales and casts, unfused, cost more than its products gain."""
        return self.compute == "float8"

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
        "fp16-true",
        "float16",
        "float16",
        "everything in FP16, unscaled: gradients and updates below 6e-5 fade or vanish, large ones overflow",
    ),
    Precision("fp8-tensorwise", "float8", "float32", "FP8 linear layers, one scale a tensor, else BF16", "tensorwise"),
    Precision("fp8-rowwise", "float8", "float32", "FP8 linear layers, one scale a row, else BF16", "rowwise"),
)

LADDER: Mapping[str, Precision] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Every precision by name, from the widest format to the narrowest."""

BASELINES = ("fp32", "tf32")
"""Precisions that others are measured against, weakest first."""
