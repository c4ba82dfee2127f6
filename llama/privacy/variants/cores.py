"""The core of a street's or a body's name: the name without generic words, with any of these around it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from llama.privacy.normalised import NormalisedText, word_anchor
from llama.privacy.variants.finders import Spans

BEGINNING = 8  # most words of a name that it is looked up by
_GAP = 3  # most signs between two words that belong together


@dataclass(frozen=True)
class Core:
    """The own words of a name.

    Attributes:
        words: in their order.
        beside: generic words, one of which must stand next to it; empty if none is needed.
    """

    words: tuple[str, ...] = field(repr=False)
    beside: frozenset[str] = field(default=frozenset(), repr=False)


class CoreForms:
    """Names of streets or bodies by their own words, with generic ones before, between and after.

    Args:
        generic: words such as *jalan* and *university*, which may stand between the core's and are masked with it.
        joining: words such as *of*, which may stand between a generic word and the core.
        house_numbers: a number after it, and a letter after that, belongs to it.
    """

    def __init__(self, generic: Collection[str], joining: Collection[str] = (), *, house_numbers: bool = False) -> None:
        self._generic, self._joining = frozenset(generic), frozenset(joining)
        self._house_numbers = house_numbers
        # By their first words, at most BEGINNING, and their length.
        self._cores: dict[tuple[str, ...], dict[int, dict[tuple[str, ...], set[Core]]]] = {}

    def add(self, words: Sequence[str], beside: Collection[str] = ()) -> None:
        """Add a name's own words; with ``beside``, only next to one of these."""
        core = Core(tuple(words), frozenset(beside))
        by_length = self._cores.setdefault(core.words[:BEGINNING], {})
        by_length.setdefault(len(words), {}).setdefault(core.words, set()).add(core)

    def leave_out(self, known: set[Hashable]) -> None:
        """Drop the names that are ``known``, and add the rest to it."""
        for by_length in self._cores.values():
            for by_words in by_length.values():
                for cores in by_words.values():
                    keys = {(core, self._house_numbers): core for core in cores}
                    cores -= {core for key, core in keys.items() if key in known}
                    known.update(keys)

    def find(self, text: NormalisedText) -> Spans:
        """Yield each stretch that writes one of the names, with the generic words around it."""
        if not self._cores:
            return
        skipped = self._generic | self._joining
        words = text.once(_own_words(skipped))
        for beginning, by_length in self._cores.items():
            for k in text.once(_places_of(skipped, len(beginning))).get(beginning, ()):
                for length, cores in by_length.items():
                    here = words[k : k + length]
                    for core in cores.get(tuple(w for _, w in here), ()):
                        yield from self._at(text, here, core)

    def anchors(self) -> Collection[str]:
        """Return the first word of each of the names."""
        return {
            word_anchor(beginning[0])
            for beginning, by_length in self._cores.items()
            if any(any(by_words.values()) for by_words in by_length.values())
        }

    def _at(self, text: NormalisedText, words: list[tuple[int, str]], core: Core) -> Spans:
        inner_first, inner_last = words[0][0], words[-1][0]
        if inner_last - inner_first > 3 * len(core.words):
            return
        first, last = inner_first, inner_last
        generic = self._generic | core.beside
        while (step := self._generic_beside(text, first, -1, generic)) is not None:
            first = step
        while True:
            if (step := self._generic_beside(text, last, 1, generic)) is not None:
                last = step
            elif self._house_numbers and last + 1 < len(text.words) and _is_house_number(text, last + 1):
                last += 1
            else:
                break
        around = {w for _, _, w in text.words[first:inner_first]} | {
            w for _, _, w in text.words[inner_last + 1 : last + 1]
        }
        if not core.beside or around & core.beside:
            yield text.words[first][0], text.words[last][1]

    def _generic_beside(self, text: NormalisedText, i: int, step: int, generic: frozenset[str]) -> int | None:
        """Return the next generic word before or after word i, with only joining words between, or None."""
        k = i + step
        while 0 <= k < len(text.words) and _near(text, min(k, k - step), max(k, k - step)):
            if text.words[k][2] in generic:
                return k
            if text.words[k][2] not in self._joining:
                return None
            k += step
        return None


OwnWords = list[tuple[int, str]]
Places = dict[tuple[str, ...], list[int]]


@lru_cache(maxsize=16)
def _own_words(skipped: frozenset[str]) -> Callable[[NormalisedText], OwnWords]:
    """Return the function that lists a text's words without generic ones."""

    def own_words(text: NormalisedText) -> OwnWords:
        return [(i, word) for i, (_, _, word) in enumerate(text.words) if word not in skipped]

    return own_words


@lru_cache(maxsize=16 * BEGINNING)
def _places_of(skipped: frozenset[str], count: int) -> Callable[[NormalisedText], Places]:
    """Return the function that maps so many consecutive words to their places in that list."""

    def places_of(text: NormalisedText) -> Places:
        words, at = [word for _, word in text.once(_own_words(skipped))], Places()
        for k in range(len(words) - count + 1):
            at.setdefault(tuple(words[k : k + count]), []).append(k)
        return at

    return places_of


def _near(text: NormalisedText, first: int, second: int) -> bool:
    """Return whether two neighbouring words are in one line and phrase."""
    between = text.text[text.words[first][1] : text.words[second][0]]
    return len(between) <= _GAP and "\n" not in between


def _is_house_number(text: NormalisedText, i: int) -> bool:
    """Return whether word i is a house number after the word before it, or a letter of one."""
    start, _, word = text.words[i]
    _, end, before = text.words[i - 1]
    return start - end <= 2 and (
        bool(re.fullmatch(r"\d{1,4}[a-z]?", word)) or (len(word) == 1 and before.isdigit() and word.isalpha())
    )
