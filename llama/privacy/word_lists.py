"""The long word lists, in ``data/``: read when they are first needed, and shared.

Knows nothing about: values, tags, sheets.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

_DATA = Path(__file__).parent / "data"


def _read(name: str) -> frozenset[str]:
    """Read a list: a word or name a line, in lower case; lines with ``#`` say where it comes from."""
    lines = (_DATA / name).read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


@lru_cache(maxsize=1)
def known_words() -> frozenset[str]:
    """Words that everybody uses, so that one of them is no name with a letter wrong."""
    return _read("known_words.txt")


@lru_cache(maxsize=1)
def common_words() -> frozenset[str]:
    """Words that tell nothing about a person by themselves."""
    return _read("common_words.txt")


@lru_cache(maxsize=1)
def places() -> frozenset[str]:
    """Towns and cities."""
    return _read("places.txt")
