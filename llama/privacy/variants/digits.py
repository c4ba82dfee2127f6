"""Numbers in a text, in any grouping, whole and by a part."""

from __future__ import annotations

import bisect
import re
from collections.abc import Collection, Iterable, Iterator

from llama.privacy.normalised import ANCHOR, NormalisedText, anchor_of
from llama.privacy.variants.finders import Spans, all_anchors, unless
from llama.privacy.variants.letters import LONG

RUN = 6  # digits of a long number that are a secret by themselves
_PHONE_PREFIX = re.compile(r"(?:(?:00)?62)?0?\Z|(?:00)?[1-9]\d{0,2}\Z")


class DigitForms:
    """Numbers in any grouping, and with letters that look like digits.

    Args:
        phone: country codes and leading zeros before a number belong to it.
    """

    def __init__(self, *, phone: bool = False) -> None:
        self._phone = phone
        self.numbers: set[str] = set()  # long numbers are found inside longer ones too
        self.amounts: set[str] = set()  # found only as separate numbers: a price is not part of a salary
        self.parted: set[str] = set()  # long numbers of which a part is secret by itself

    def find(self, text: NormalisedText) -> Spans:
        """Yield each stretch that writes one of the numbers, or a long part of one."""
        if self.numbers or self.amounts:
            yield from self._find(text)
            if (other := text.with_digits_for_letters) is not None:
                yield from self._find(other)

    def anchors(self) -> Collection[str] | None:
        """Return the beginnings of the numbers; for a number also found by a part, any three of its digits."""
        parts = (number[i : i + ANCHOR] for number in self.parted for i in range(len(number) - ANCHOR + 1))
        return all_anchors((*map(anchor_of, self.numbers | self.amounts), *parts))

    def _find(self, text: NormalisedText) -> Spans:
        for number in self.numbers:
            for first, last, (start, _) in _places_of(text, number):
                # A short number counts only as a separate number: 40162 is not in 1.401.620.
                if len(number) >= LONG or _is_one_number(text, first, last):
                    before = text.compact[max(start, first - 8) : first]
                    prefix = _PHONE_PREFIX.search(before) if self._phone else None
                    yield text.span(first - len(prefix[0]) if prefix else first, last)
        for number in self.amounts:
            for first, last, run in _places_of(text, number):
                if _is_one_amount(text, first, last, run):
                    yield text.span(first, last)
        if self.parted:
            digits, bare = text.once(_parts_in)
            parts = bare if self._phone else digits
            for number in self.parted:
                yield from (span for part in _those_in(number, parts) for span in parts[part])


def _places_of(text: NormalisedText, number: str) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Yield each place of a number in a run of digits: its start and end in the compact text, and the run."""
    first = text.compact.find(number)
    while first >= 0:
        last = first + len(number)
        run = text.runs[max(0, bisect.bisect_right(text.runs, (first, len(text.compact))) - 1)]
        if run[0] <= first and last <= run[1]:
            yield first, last, run
        first = text.compact.find(number, first + 1)


_Parts = dict[str, list[tuple[int, int]]]


def _parts_in(text: NormalisedText) -> tuple[_Parts, _Parts]:
    """Return the possible parts of a long number: runs of digits, and groups of one; also without a phone's prefix."""
    digits: _Parts = {}
    bare: _Parts = {}
    for a, b in text.runs:
        if b - a >= RUN:
            run, span = text.compact[a:b], text.span(a, b)
            digits.setdefault(run, []).append(span)
            if len(without := re.sub(r"^(?:0|62)", "", run)) >= RUN:
                bare.setdefault(without, []).append(span)
    for start, end, word in text.words:
        if len(word) >= RUN and word.isdigit():
            for parts in (digits, bare):
                parts.setdefault(word, []).append((start, end))
    return digits, bare


def _those_in(number: str, parts: _Parts) -> Iterable[str]:
    """Return the parts that are in a number. They are looked up one by one if the number has fewer."""
    if len(number) ** 2 > len(parts):
        return [part for part in parts if part in number]
    own = {number[a:b] for a in range(len(number)) for b in range(a + RUN, len(number) + 1)}
    return own.intersection(parts)


def _is_one_number(text: NormalisedText, first: int, last: int) -> bool:
    """Return whether the digits ``compact[first:last]`` stand together, with other signs or letters around them."""
    together = all(len(text.gap(i)) <= 1 for i in range(first + 1, last))
    return together and text.is_edge(first) and text.is_edge(last)


def _is_one_amount(text: NormalisedText, first: int, last: int, run: tuple[int, int]) -> bool:
    """Return whether these digits of a run are a whole amount: no point or comma joins them to more digits."""
    joined = (first > run[0] and text.gap(first) in _JOINERS) or (last < run[1] and text.gap(last) in _JOINERS)
    return (
        not joined
        and _is_one_number(text, first, last)
        and "\n" not in "".join(text.gap(i) for i in range(first + 1, last))
    )


_JOINERS = (".", ",", "'", "’")

_CUE_LAST = (
    r"(?:akhiran(?:nya)?|berakhiran|berakhir|belakang(?:nya)?|buntut(?:nya)?|ujung(?:nya)?|ending|ends?|ended|finish(?:es|ing)?|terakhir(?:nya)?|"
    r"last|final|tail)"
)
_CUE_FIRST = r"(?:awalan(?:nya)?|berawalan|depan(?:nya)?|starts?|starting|begins?|beginning|first|diawali)"
_FILLER = r"(?:[^\W\d_]{1,10}[^\w\n]{1,3}|\d(?:[^\w\n]{1,2}(?=[^\W\d_])|:[^\S\n]?)){0,6}"
_LAST = re.compile(
    rf"(?<![^\W_]){_CUE_LAST}[^\w\n]{{1,3}}{_FILLER}(?P<a>\d{{3,6}})(?!\d)"
    rf"|(?<!\d)(?P<b>\d{{3,6}})[^\w\n]{{1,2}}(?:di[^\S\n])?(?:belakang(?:nya)?|terakhir|buntutnya|at the end)"
    r"|(?:(?<![*x×•#])[*x×•#]{2,}|(?<![.…])(?:[.…]{2,}|…))[^\w\n]{0,2}(?P<c>\d{3,6})(?!\d)"
)
_FIRST = re.compile(
    rf"(?<![^\W_]){_CUE_FIRST}[^\w\n]{{1,3}}{_FILLER}(?P<a>\d{{3,6}})(?!\d)"
    rf"|(?<!\d)(?P<b>\d{{3,6}})[^\w\n]{{1,2}}(?:di[^\S\n])?depan(?:nya)?|(?<!\d)(?P<c>\d{{3,6}})(?:[*x×•#]{{2,}})"
)


class Endings:
    """The last or first digits of a long number, where a word or a mask marks them: *akhiran 7890*, ``**7890``."""

    def __init__(self) -> None:
        self.numbers: set[str] = set()

    def find(self, text: NormalisedText) -> Spans:
        """Yield each such group of digits."""
        for start, end, digits, is_last in text.once(_ends_in) if self.numbers else ():
            if any(number.endswith(digits) if is_last else number.startswith(digits) for number in self.numbers):
                yield start, end

    def anchors(self) -> Collection[str] | None:
        """Return None, or nothing if no number is sought: the ends are too many to list."""
        return unless(not self.numbers)


def _ends_in(text: NormalisedText) -> list[tuple[int, int, str, bool]]:
    """Return the groups of digits that a word or a mask marks as the end or the beginning of a number."""
    return [
        (*m.span(group := next(g for g in "abc" if m[g])), m[group], pattern is _LAST)
        for pattern in (_LAST, _FIRST)
        for m in pattern.finditer(text.line.replace("_", " "))
    ]
