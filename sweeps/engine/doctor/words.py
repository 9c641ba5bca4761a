"""Figures as the report writes them."""


def size(num_bytes: float | None) -> str:
    """Bytes as GiB or MiB; ``unknown`` where they are missing."""
    if num_bytes is None:
        return "unknown"
    return f"{num_bytes / 2**30:.3g} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.3g} MiB"


def count(number: float, what: str) -> str:
    """``1 CPU``, ``2 CPUs``."""
    return f"{number:g} {what}{'' if number == 1 else 's'}"


def rate(flops_per_s: float | None) -> str:
    """FLOP/s as TFLOP/s or GFLOP/s; ``-`` where they are missing."""
    if flops_per_s is None:
        return "-"
    return f"{flops_per_s / 1e12:.3g} TFLOP/s" if flops_per_s >= 1e12 else f"{flops_per_s / 1e9:.3g} GFLOP/s"
