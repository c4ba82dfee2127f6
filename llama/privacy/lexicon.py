"""How common a word is, and how often it is a name: ``data/lexicon.txt``, read on first use and shared.

The file names its sources and their licences; ``tests/training/lexicon.py`` makes it.

Knows nothing about: values, tags, sheets.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from llama.privacy.normalised import LIGATURES

LEXICON = Path(__file__).parent / "data" / "lexicon.txt"
NAME_LETTERS = Path(__file__).parent / "data" / "name_letters.txt"


class Entry(NamedTuple):
    """What is known of a word.

    Attributes:
        given: how common it is as a given name: 0 none, 1 rare, 2 common, 3 very common.
        surname: how common it is as a surname, likewise.
        english: its frequency in English on the zipf scale (logarithm of occurrences in 10^9 words), 0 unknown to 9.
        indonesian: its frequency in Indonesian, likewise.
    """

    given: int
    surname: int
    english: int
    indonesian: int

    @property
    def frequency(self) -> int:
        """The frequency in the language in which the word is more common."""
        return max(self.english, self.indonesian)


UNKNOWN = Entry(0, 0, 0, 0)


def plain(word: str) -> str:
    """Return a word in lower case and without accents, as the lexicon has it."""
    if word.isascii():
        return word.lower()
    letters = unicodedata.normalize("NFKD", word.casefold().translate(LIGATURES))
    return "".join(c for c in letters if not unicodedata.combining(c))


def entry(word: str) -> Entry:
    """Return what is known of a word that is given in plain form."""
    return all_entries().get(word, UNKNOWN)


@lru_cache(maxsize=4096)
def name_score(word: str) -> int:
    """Return how much the letters of a word in plain form speak for a name: above 0 rather a name, in tenths."""
    weights = _letter_weights()
    return sum(weights.get(group, 0) for group in letter_groups(word))


def letter_groups(word: str) -> list[str]:
    """Return the groups of two to four letters of a word, with marks for its ends."""
    marked = f"<{word}>"
    return [marked[i : i + size] for size in (2, 3, 4) for i in range(len(marked) - size + 1)]


@lru_cache(maxsize=1)
def _letter_weights() -> dict[str, int]:
    return {group: int(weight) for weight, groups in _lines(NAME_LETTERS) for group in groups}


@lru_cache(maxsize=1)
def all_entries() -> dict[str, Entry]:
    """Return the whole lexicon."""
    entries = dict[str, Entry]()
    for code, words in _lines(LEXICON):
        entries.update(dict.fromkeys(words, Entry(*map(int, code))))
    return entries


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the first word of each line, and the others; lines with ``#`` state the source."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            first, *others = line.split()
            yield first, others
