"""TOML files that people write: sheets and profiles; errors say where, and nothing of what stands there."""

from __future__ import annotations

import re
import tomllib
from typing import Any

MAX_BYTES = 1 << 20
# tomllib takes time that grows with the square of a dotted key's length.
_DEEP_KEY = re.compile(r"(?<![\w\-\"'])(?:[\w\-\"']++[ \t]*+\.[ \t]*+){64}")


def parsed(text: str) -> dict[str, Any]:
    """The table.

    Raises:
        ValueError: malformed; the message is the place, ``(at line 2, column 5)``, or empty.
    """
    if _DEEP_KEY.search(text):
        raise ValueError("(a key of more than 64 parts)")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as err:
        place = re.search(r"\(at [^()]*\)$", str(err))
        raise ValueError(place[0] if place else "") from None
