"""A text in searchable form: without case, accents, width and signs, with every position kept.

Knows nothing about: values, tags, sheets.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterator
from functools import cached_property, lru_cache
from typing import TypeVar

import regex

from llama.privacy.amounts import Amount, all_amounts_in
from llama.privacy.dates import RARE_DATES, Day, dates_in, labelled_dates_in

T = TypeVar("T")

MAX_GAP = 3  # most signs between two digits of one number, not counting white space
MAX_SPACES = 8

# Anchors: a text that writes a value must have the value's anchor. Only the ones below contain a space.
ANCHOR = 3  # letters or digits, one after another, of the compact text
DATE = " date "  # a date

# Hyphens, the figure dash and minus signs, as typesetting programs set them. An en dash is none: it makes ranges.
_HYPHENS = frozenset("\u2010\u2011\u2012\u2043\u2212\ufe63\uff0d")

LIGATURES = str.maketrans({"œ": "oe", "æ": "ae", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"})


_WORD = re.compile(r"[^\W_]+(?:[-‐‑]\n[ \t>|]*[a-z][^\W_]*)?")  # a hyphen at the end of a line continues a word

# Letters that are typed for digits, in a word with at least one digit, and in the groups before and after it.
_LOOKALIKES = str.maketrans("OoQIl|iSsBZz", "000111155822")
_NUMBER_LIKE = re.compile(
    r"(?<![^\W_])(?<!\|)(?:[OoQIlSBZ]{4}[ .-]){0,6}[OoQIl|iSsBZz]*\d[\dOoQIl|iSsBZz]*"
    r"(?:[ .-][OoQIl|iSsBZz]{2,}(?![^\W_]))*(?![^\W_])"
)


def _digits_for_letters(m: re.Match[str]) -> str:
    return m[0].translate(_LOOKALIKES)


@lru_cache(maxsize=4096)
def folded(char: str) -> str:
    """Return the letters and digits of one character, without case, accent or width; empty for all else."""
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold()).translate(LIGATURES)
    return "".join(c for c in plain if c.isalnum())


def in_order(text: str) -> str:
    """Sort the marks of each letter into the order of Unicode's normal forms, in n log n.

    Normalising sorts them, too, but in a time that grows with the square of their number. So this sorts them first. The
    result is canonically equivalent to the text (Unicode Standard, section 3.11).
    """
    return str(_MANY_MARKS.sub(_sorted_marks, text))


_MANY_MARKS = regex.compile(r"\p{M}{31,}")  # no word of a language has more than a few marks


def _sorted_marks(m: regex.Match[str]) -> str:
    marks = "".join(unicodedata.normalize("NFD", mark) for mark in m[0])
    runs = itertools.groupby(marks, key=lambda mark: unicodedata.combining(mark) == 0)
    return "".join(c for is_base, run in runs for c in (run if is_base else sorted(run, key=unicodedata.combining)))


def compact(text: str) -> str:
    """Keep the letters and digits only, folded: ``Sari-Déwi`` → ``saridewi``."""
    return "".join(folded(c) for c in text)


def line_of(text: str) -> str:
    """Fold a text character by character, so that every position stays."""
    return "".join(map(_same_length, text))


@lru_cache(maxsize=4096)
def _same_length(char: str) -> str:
    if char in _HYPHENS:
        return "-"
    plain = unicodedata.normalize("NFKC", char).casefold()
    return plain if len(plain) == 1 else char


def is_unspaced(text: str) -> bool:
    """Return whether a text has letters of a script without spaces between words (Thai and beyond)."""
    return any(c >= "\u0e00" for c in text)


def anchor_of(form: str) -> str | None:
    """Return the anchor of a compact form; None if the form is too short to have one."""
    return form[:ANCHOR] if len(form) >= ANCHOR else None


def word_anchor(word: str) -> str:
    """Return the anchor of a text that contains this word, given in compact form."""
    return f" {word}"


class NormalisedText:
    """A text, and the forms of it in which values are sought. All positions refer to the text.

    Attributes:
        text: the original text.
        line: the text folded, character for character.
        compact: letters and digits only; ``at[i]`` is the position of ``compact[i]`` in the text.
        words: start, end and compact form of each word.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.line = line_of(text)
        chars, at = list[str](), list[int]()
        for i, char in enumerate(text):
            for plain in folded(char):
                chars.append(plain)
                at.append(i)
        self.compact, self.at = "".join(chars), at
        self.words = [(m.start(), m.end(), compact(m[0])) for m in _WORD.finditer(text)]
        self._made: dict[Hashable, object] = {}

    def once(self, make: Callable[[NormalisedText], T]) -> T:
        """Return the function's result for this text, computed at the first call only."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]  # type: ignore[return-value]

    @cached_property
    def with_digits_for_letters(self) -> NormalisedText | None:
        """The text with O, l, S and the like replaced by the digits they resemble; None if no number contains one."""
        text = _NUMBER_LIKE.sub(_digits_for_letters, self.text)
        return None if text == self.text else NormalisedText(text)

    @cached_property
    def anchors(self) -> set[str]:
        """The anchors of this text; a value needs one of them: :func:`anchor_of`, :data:`DATE`, :func:`word_anchor`."""
        anchors = {word_anchor(word) for _, _, word in self.words}
        for each in (self, self.with_digits_for_letters):
            if each is not None:
                solid = each.compact
                anchors.update(map("".join, zip(solid, solid[1:], solid[2:], strict=False)))
        if self.all_dates:
            anchors.add(DATE)
        return anchors

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """Stretches ``compact[start:end]`` of digits with at most a few signs between them in the text."""
        return list(self._digit_runs())

    @cached_property
    def dates(self) -> list[tuple[int, int, set[Day]]]:
        """Unmistakable dates, each with all its possible meanings."""
        return list(dates_in(self.line))

    @cached_property
    def all_dates(self) -> list[tuple[int, int, set[Day]]]:
        """All dates, including those that are recognised only if the date is known."""
        return [*self.dates, *dates_in(self.line, RARE_DATES)]

    @cached_property
    def labelled_dates(self) -> list[tuple[int, int, Day]]:
        """Days, months and years with labels, each with the date they form together."""
        return list(labelled_dates_in(self.line))

    @cached_property
    def amounts(self) -> list[Amount]:
        """Amounts of the text, in figures and in words."""
        return list(all_amounts_in(self.line))

    def _digit_runs(self) -> Iterator[tuple[int, int]]:
        for m in re.finditer(r"[0-9]+", self.compact):
            start = m.start()
            for i in range(m.start() + 1, m.end()):
                gap = self.gap(i)
                signs = len("".join(gap.split()))
                if "\n\n" in gap or len(gap) > MAX_SPACES or signs > MAX_GAP:
                    yield start, i
                    start = i
            yield start, m.end()

    def gap(self, i: int) -> str:
        """Return the text between ``compact[i-1]`` and ``compact[i]``."""
        return self.text[self.at[i - 1] + 1 : self.at[i]]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of ``compact[start:end]`` in the text, including the combining marks that follow."""
        first, last = self.at[start], self.at[end - 1] + 1
        while last < len(self.text) and unicodedata.combining(self.text[last]):
            last += 1
        return first, last

    def is_edge(self, i: int) -> bool:
        """Return whether a word or number begins or ends between ``compact[i-1]`` and ``compact[i]``."""
        if i in (0, len(self.compact)):
            return True
        before, after = self.compact[i - 1], self.compact[i]
        return self.at[i] - self.at[i - 1] > 1 or before.isdigit() != after.isdigit() or is_unspaced(before + after)
