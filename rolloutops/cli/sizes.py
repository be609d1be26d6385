"""Numbers of bytes in words."""

from __future__ import annotations


def size(number: int) -> str:
    """Bytes as a person reads them: `12 MB`."""
    amount, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.3g} {unit}" if unit != "B" else f"{number} B"
