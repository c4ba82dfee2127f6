"""The long word lists in ``data/``, read on first use and shared.

Knows nothing about: values, tags, sheets.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

_DATA = Path(__file__).parent / "data"


def _read(name: str) -> frozenset[str]:
    """Read a list: one word or name per line, in lower case; lines with ``#`` state the source."""
    lines = (_DATA / name).read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


@lru_cache(maxsize=1)
def known_words() -> frozenset[str]:
    """Return words in general use; such a word is not a misspelt name."""
    return _read("known_words.txt")


@lru_cache(maxsize=1)
def common_words() -> frozenset[str]:
    """Return words that reveal nothing about a person by themselves."""
    return _read("common_words.txt")


@lru_cache(maxsize=1)
def places() -> frozenset[str]:
    """Return towns and cities."""
    return _read("places.txt")
