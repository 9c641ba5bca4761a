"""Sums of money as text. Imports nothing, so that the driver needs no pandas to tell one."""


def dollars(usd: float) -> str:
    """A sum of money, a small one to three digits."""
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.3g}"
