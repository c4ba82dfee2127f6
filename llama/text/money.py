"""The elements of written amounts of money, in Indonesian and English: words for zeros, grouped digits, rupiah.

The two grammars that read amounts are elsewhere, since they answer different questions. ``llama.privacy.amounts``
returns every reading of a number, so that it misses none of a person's. ``llama.cloud.query`` returns one reading, and
only of numbers that are marked as money.

Knows nothing about: values, tags, budgets, products.
"""

from __future__ import annotations

import re

SCALES = {
    "ribu": 1e3,
    "rb": 1e3,
    "rbu": 1e3,
    "k": 1e3,
    "thousand": 1e3,
    "thousands": 1e3,
    "grand": 1e3,
    "juta": 1e6,
    "jt": 1e6,
    "jta": 1e6,
    "million": 1e6,
    "millions": 1e6,
    "mio": 1e6,
    "mn": 1e6,
    "mil": 1e6,
    "mill": 1e6,
    "m": 1e6,
    "lakh": 1e5,
    "lakhs": 1e5,
    "crore": 1e7,
    "crores": 1e7,
    "miliar": 1e9,
    "milyar": 1e9,
    "billion": 1e9,
    "bn": 1e9,
    "triliun": 1e12,
    "trillion": 1e12,
}
"""Words behind a number, lower-cased, each with its factor."""

_GROUPS = re.compile(r"[.,'’ ]")


def number_of(digits: str) -> float | None:
    """Read a number that has only one reading: with groups of three, or with one fraction.

    Args:
        digits: groups of digits, one sign of ``.,'’`` or a space between two of them; the first may have any length.

    Returns:
        ``1.250.000`` as 1250000, ``1,5`` as 1.5; None for other forms, such as ``1.25.30``.
    """
    groups = _GROUPS.split(digits)
    if all(len(group) == 3 for group in groups[1:]):
        return float("".join(groups))
    return float(".".join(groups)) if len(groups) == 2 else None


def rupiah(amount: int) -> str:
    """Write whole rupiah in the Indonesian form: ``Rp 400.000``."""
    return f"Rp {amount:,}".replace(",", ".")
