"""TOML files that people write: sheets and profiles. Errors give the place, never the text there."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from llama.text.decoding import without_marks

MAX_BYTES = 1 << 20
# tomllib takes time that grows with the square of the parts of a dotted key.
_PART = r"""(?:"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+'|[\w-]++)[ \t]*+\.[ \t]*+"""
_DEEP_KEY = re.compile(rf"(?:^|[\[{{,])[ \t]*+(?:{_PART}){{64}}", re.MULTILINE)


def parsed(text: str) -> dict[str, Any]:
    """Return the table.

    Raises:
        ValueError: the text is malformed; the message is the place, ``(at line 2, column 5)``, or empty.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"(larger than {MAX_BYTES >> 20} MiB)")
    if _DEEP_KEY.search(text):
        raise ValueError("(a key of more than 64 parts)")
    try:
        return tomllib.loads(without_marks(text))
    except (ValueError, RecursionError) as err:
        place = re.search(r"\(at [^()]*\)$", str(err))
        raise ValueError(place[0] if place else "") from None
