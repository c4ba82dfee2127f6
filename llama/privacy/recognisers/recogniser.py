"""Recognisers: each finds one kind of personal data in a text. Most are rows of pattern, context and validators.

The terms are Presidio's (``PatternRecognizer``), without its scores: there are hits only. Kinds that no pattern can
match, such as dates, have a small class with the same method.

Knows nothing about: which kinds there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from llama.privacy.normalised import NormalisedText
from llama.privacy.stretches import Stretches

WINDOW = 40  # characters before a match in which its context is sought

Span = tuple[int, int]


@dataclass(frozen=True)
class Hit:
    """A stretch ``text[start:end]`` that looks like personal data.

    Attributes:
        start: where it begins.
        end: where it ends.
        kind: the kind of its tag.
        guessed: it was told by the words around it alone, so its edges are uncertain.
    """

    start: int
    end: int
    kind: str
    guessed: bool = False


class Recogniser(Protocol):
    """Finder of personal data in a text."""

    def find(self, view: NormalisedText) -> Iterator[Hit]:
        """Yield all hits, in any order; they may overlap."""


@dataclass(frozen=True)
class PatternRecogniser:
    """Finder of matches of a pattern in the right context that pass every validator.

    Attributes:
        kind: the hits' kind.
        pattern: matches a value, perhaps with words around it.
        folded: search the folded line, which has no case and one width, instead of the original text.
        group: the part of the match that is the value; 0 is all of it.
        before: must be found in the window before the match.
        not_before: must not be found there.
        narrow: returns the span of the value in the match, or None if it contains no value.
        validators: must all be true of the narrowed value.
        outside_dates: no hit lies within a date.
    """

    kind: str
    pattern: re.Pattern[str]
    folded: bool = False
    group: int = 0
    before: re.Pattern[str] | None = None
    not_before: re.Pattern[str] | None = None
    narrow: Callable[[str], Span | None] | None = None
    validators: tuple[Callable[[str], bool], ...] = ()
    outside_dates: bool = False

    def find(self, view: NormalisedText) -> Iterator[Hit]:
        """Yield all hits, by position."""
        text = view.line if self.folded else view.text
        for match in self.pattern.finditer(text):
            if not self._fits(text[max(0, match.start() - WINDOW) : match.start()]):
                continue
            start, end = match.span(self.group)
            within = self.narrow(text[start:end]) if self.narrow is not None else (0, end - start)
            if within is None:
                continue
            start, end = start + within[0], start + within[1]
            if all(is_valid(text[start:end]) for is_valid in self.validators) and not (
                self.outside_dates and in_a_date(view, start, end)
            ):
                yield Hit(start, end, self.kind)

    def _fits(self, window: str) -> bool:
        announced = self.before is None or self.before.search(window) is not None
        return announced and (self.not_before is None or self.not_before.search(window) is None)


@dataclass(frozen=True)
class FirstOf:
    """Combination of recognisers: each place goes to the first that finds it, since one number is of one kind."""

    recognisers: tuple[Recogniser, ...]

    def find(self, view: NormalisedText) -> Iterator[Hit]:
        """Yield all hits; no two of them at the same place."""
        taken = set[Span]()
        for recogniser in self.recognisers:
            for hit in recogniser.find(view):
                if (hit.start, hit.end) not in taken:
                    taken.add((hit.start, hit.end))
                    yield hit


def in_a_date(view: NormalisedText, start: int, end: int) -> bool:
    """Return whether ``text[start:end]`` lies within a date."""
    return view.once(_dates_of).hold(start, end)


def _dates_of(view: NormalisedText) -> Stretches:
    return Stretches((start, end) for start, end, _ in view.dates)


def without_trailing(signs: str) -> Callable[[str], Span]:
    """Return a function that narrows a value to the part before these signs at its end."""
    return lambda value: (0, len(value.rstrip(signs)))
