"""The gate's own text matcher: find a secret in a text by its letters or digits.

It is simpler than the sanitiser and shares no code with it. It knows the letters of a value, its digits in any
grouping, and a date as day, month and year. It knows no typing errors, no short forms and no words for zeros.

Knows nothing about: tags but that a NUL stands for one, sheets, tokens.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from llama.privacy.gate_clues import MONTH_OF, PLAIN, SURE, WORD, Clue, Date, Digits, Letters, words_of
from llama.privacy.policy import field_of
from llama.privacy.word_lists import known_words

TAG = "\0"  # stands for a tag in a text that is read; no match reaches across it
PART_OF_NUMBER = 6  # least digits of a part of a longer number
NEARLY_ALL = 0.75  # share of a value at a text's end that counts as all of it, if it has ENOUGH letters
ENOUGH = 6
MAX_GAP = 5

_ENDINGS = ("nya", "ku", "mu", "lah", "kah", "pun", "s", "nyalah", "nyakah", "nyapun")
_THOUSANDS = frozenset(".,'’")
_OPENING = frozenset('()[]{}<>"“”' + TAG)
_DIGITS = re.compile(r"[0-9]+")


class ReadText:
    """A text in the form that the gate reads: its letters and digits run together, and its numbers.

    Attributes:
        characters: how many were read.
    """

    def __init__(self, text: str) -> None:
        self.characters = len(text)
        self._plain = text.translate(PLAIN)
        spans = [m.span() for m in WORD.finditer(self._plain)]
        self._solid = "".join(self._plain[a:b] for a, b in spans)
        self._gap: dict[int, str] = {}  # by its position in the solid text
        # Positions of the gaps, by kind.
        self._far, self._brackets, self._spaces = (
            list[int](),
            list[int](),
            list[int](),
        )
        at = 0
        for (a, b), (c, _) in pairwise(spans):
            at += b - a
            self._gap[at] = gap = self._plain[b:c]
            if len(gap) > MAX_GAP or TAG in gap:
                self._far.append(at)
            if not _OPENING.isdisjoint(gap):
                self._brackets.append(at)
            if _parts_words(gap):
                self._spaces.append(at)
        self._runs = list(self._digit_runs())
        self._single = [m[0] for m in _DIGITS.finditer(self._solid_words(spans)) if len(m[0]) >= PART_OF_NUMBER]
        self._tokens = [(m[0], m.start(), m.end()) for m in re.finditer(r"[0-9]+|[^\W\d_]+", self._plain)]

    def _solid_words(self, spans: Sequence[tuple[int, int]]) -> str:
        return " ".join(self._plain[a:b] for a, b in spans)

    def _digit_runs(self) -> Iterator[tuple[int, int]]:
        """Yield the stretches of the solid text that are digits with few signs between them."""
        for m in _DIGITS.finditer(self._solid):
            start = m.start()
            for i in range(m.start() + 1, m.end()):
                gap = self._gap.get(i, "")
                if TAG in gap or "\n\n" in gap or len(gap) > 8 or len("".join(gap.split())) > 3:
                    yield start, i
                    start = i
            yield start, m.end()

    def says(self, clue: Clue) -> Iterator[tuple[int, int]]:
        """Yield each stretch of the solid text that matches the clue."""
        if isinstance(clue, Letters):
            yield from self._letters(clue)
        elif isinstance(clue, Digits):
            yield from self._digits(clue)
        else:
            yield from self._date(clue)

    def ends_with_most_of(self, clue: Clue) -> bool:
        """Return whether the text begins or ends with so much of a value that other words could complete it."""
        if isinstance(clue, Date) or clue.is_amount:
            return False  # 500.000 is three quarters of 5.000.000, and also a price in itself
        form = clue.form
        least = max(ENOUGH, math.ceil(NEARLY_ALL * len(form)))
        for length in range(least, len(form)):
            at, first = len(self._solid) - length, len(form) - length
            beginning, end = form[:length], form[-length:]
            if (
                self._solid.endswith(beginning)
                and self._is_edge(at)
                and self._goes_on(at, len(self._solid), 0, clue)
                and beginning not in known_words()  # "I like to garden" is not the beginning of a gardener
            ):
                return True
            if (
                self._solid.startswith(end)
                and self._is_edge(length)
                and self._goes_on(0, length, first, clue)
                and end not in known_words()
            ):
                return True
        return False

    @staticmethod
    def count(text: str) -> int:
        """Return the number of letters and digits of a text."""
        return sum(map(len, words_of(text)))

    def _is_edge(self, i: int) -> bool:
        if i in (0, len(self._solid)) or i in self._gap:
            return True
        return self._solid[i - 1].isdigit() != self._solid[i].isdigit()

    def _goes_on(self, start: int, end: int, first: int, clue: Letters | Digits) -> bool:
        """Return whether a stretch is the value from letter ``first`` on, with spaces only where the value has them."""
        if not self._is_close(start, end, clue):
            return False
        return isinstance(clue, Digits) or clue.joints.issuperset(
            i - start + first for i in _between(self._spaces, start, end)
        )

    def _gaps(self, start: int, end: int) -> dict[int, str]:
        return {i: self._gap[i] for i in range(start + 1, end) if i in self._gap}

    def _is_close(self, start: int, end: int, clue: Letters | Digits) -> bool:
        """Return whether only a few signs stand between the letters or digits."""
        may_have_brackets = isinstance(clue, Digits) or field_of(clue.field).tag == "EMAIL"
        return not _between(self._far, start, end) and (may_have_brackets or not _between(self._brackets, start, end))

    def _letters(self, clue: Letters) -> Iterator[tuple[int, int]]:
        start = self._solid.find(clue.form)
        while start >= 0:
            end = start + len(clue.form)
            if self._is_close(start, end, clue) and self._are_words(start, end, clue):
                yield start, end
            start = self._solid.find(clue.form, start + 1)

    def _are_words(self, start: int, end: int, clue: Letters) -> bool:
        """Return whether the letters are whole words: neither inside another word nor across two others."""
        spaces = _between(self._spaces, start, end)
        unspaced = any(c >= "\u0e00" for c in clue.form)
        if unspaced or (len(clue.form) >= SURE and not spaces):
            return True
        if spaces and clue.together:
            return False
        is_spelled_out = len(spaces) == len(clue.form) - 1
        if len(clue.form) < SURE and not is_spelled_out and not clue.joints.issuperset(i - start for i in spaces):
            return False
        return self._is_edge(start) and (
            self._is_edge(end) or any(self._solid.startswith(e, end) and self._is_edge(end + len(e)) for e in _ENDINGS)
        )

    def _digits(self, clue: Digits) -> Iterator[tuple[int, int]]:
        form = clue.form
        for start, end in self._runs:
            run = self._solid[start:end]
            at = run.find(form)
            while at >= 0:
                first, last = start + at, start + at + len(form)
                if clue.is_amount or len(form) < SURE:
                    if self._is_one_number(first, last, clue.is_amount):
                        yield first, last
                else:
                    yield first, last
                at = run.find(form, at + 1)
            part = re.sub(r"^(?:0|62)", "", run) if clue.is_phone else run
            if clue.has_parts and len(form) >= SURE and len(part) >= PART_OF_NUMBER and part in form:
                yield start, end
        if clue.has_parts and len(form) >= SURE and any(single in form for single in self._single):
            yield 0, 0

    def _is_one_number(self, first: int, last: int, is_amount: bool) -> bool:
        gaps = self._gaps(first, last)
        if any(len(gap) > 1 or (is_amount and "\n" in gap) for gap in gaps.values()):
            return False
        joined = is_amount and any(
            self._gap.get(i) in gaps.values() and self._parts_thousands(i) for i in (first, last)
        )
        return not joined and self._is_edge(first) and self._is_edge(last)

    def _parts_thousands(self, i: int) -> bool:
        """Return whether a sign belongs to one number, as in 1.250.000, and does not separate two, as in 17,1250000."""
        before, after = self._groups(i - 4, i), self._groups(i, i + 4)
        is_one = re.search(r"(?<![0-9])[0-9]{1,3}$", before) and re.match(r" [0-9]{3}(?![0-9])", after)
        return self._gap[i] in _THOUSANDS and is_one is not None

    def _groups(self, start: int, end: int) -> str:
        """Return a stretch of the solid text with one space for each gap."""
        places = range(max(0, start), min(end, len(self._solid)))
        return "".join(" " * (i in self._gap) + self._solid[i] for i in places)

    def _date(self, clue: Date) -> Iterator[tuple[int, int]]:
        years = (f"{clue.year:04}", f"{clue.year % 100:02}")
        days, months = {str(clue.day), f"{clue.day:02}"}, {str(clue.month), f"{clue.month:02}"}
        names = {word for word, number in MONTH_OF.items() if number == clue.month}
        for a, b in pairwise(self._tokens):
            is_both = (a[0] in days and b[0] in names) or (a[0] in names and b[0] in days)
            if is_both and re.fullmatch(r"[\s.,/–—-]{0,3}", self._plain[a[2] : b[1]]):
                yield 0, 0
        for a, b, c in zip(self._tokens, self._tokens[1:], self._tokens[2:], strict=False):
            orders = ((a[0], b[0], c[0]), (b[0], a[0], c[0]), (c[0], b[0], a[0]))
            if any(d in days and m in months and y in years for d, m, y in orders) and all(
                _BETWEEN.fullmatch(self._plain[x[2] : y[1]]) for x, y in ((a, b), (b, c))
            ):
                yield 0, 0


def _between(places: list[int], start: int, end: int) -> list[int]:
    """Return the places after ``start`` and before ``end``; ``places`` must be sorted."""
    first = bisect.bisect_right(places, start)
    return places[first : bisect.bisect_left(places, end, first)]


_BETWEEN = re.compile(r"[^\S\n]?(?:[^\w\n:\0]|_)[^\S\n]?|[^\S\n]{1,2}")


def _parts_words(gap: str) -> bool:
    """Return whether a gap separates two words. A hyphen at the end of a line continues one word."""
    return any(c.isspace() for c in gap) and not re.fullmatch(r"[-‐‑]\s*\n\s*", gap)


def read_in(text: str, clues: Iterable[Clue]) -> str | None:
    """Return the field of the first secret in a text, or None."""
    read = ReadText(text)
    return next((clue.field for clue in clues if next(read.says(clue), None) is not None), None)
