"""The grammar of amounts in Indonesian and English: which stretch of a text writes one, and how much it is.

Knows nothing about: values, tags, sheets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Amount = tuple[int, int, float, bool]
"""Start, end, how much, and whether a word such as *juta* scales it."""

_SCALES = {
    "ribu": 1e3, "rb": 1e3, "k": 1e3, "thousand": 1e3, "juta": 1e6, "jt": 1e6, "million": 1e6, "mio": 1e6, "mn": 1e6,
    "m": 1e6, "miliar": 1e9, "milyar": 1e9, "billion": 1e9, "bn": 1e9, "triliun": 1e12,
}  # fmt: skip
_SCALE = "|".join(sorted(_SCALES, key=len, reverse=True))
_AMOUNT = re.compile(rf"(?<!\d)(?<!\d[.,])(?P<n>\d+(?:[.,'\s]\d+)*)\s?(?P<scale>{_SCALE})?(?:an)?(?![^\W_])")


def amounts_in(line: str) -> Iterator[Amount]:
    """Amounts in a folded line, and whether a word scales them: ``15.000.000``, ``15 juta``, ``1,5jt``."""
    for m in _AMOUNT.finditer(line):
        number, scale = m["n"], _SCALES.get(m["scale"] or "", 1.0)
        groups = re.split(r"[.,'\s]", number)
        if len(groups) > 1 and all(len(g) == 3 for g in groups[1:]):
            value = float("".join(groups)) * scale
        elif len(groups) > 2 and len(groups[-1]) < 3 and all(len(g) == 3 for g in groups[1:-1]):
            value = float("".join(groups[:-1]) + "." + groups[-1]) * scale
        elif len(groups) == 2:
            value = float(".".join(groups)) * scale
        else:
            value = float(groups[0]) * scale
        yield m.start(), m.end(), value, m["scale"] is not None
