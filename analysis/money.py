"""Sums of money as text. Imports nothing, so that the driver needs no pandas to tell one."""

import math


def dollars(usd: float) -> str:
    """A sum of money, to cents, a small one to three digits."""
    if not 0 < usd < 0.995:
        return f"${usd:,.2f}" if usd else "$0"
    return "$" + f"{usd:.{2 - math.floor(math.log10(usd))}f}".rstrip("0")
