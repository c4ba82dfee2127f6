"""The ways to look for something in a text: by its letters, digits, date, amount, or by words beside a generic one.

Every kind of value in this package is put together from these. Too short to be found, and so not looked for: forms of
one or two letters, numbers of one to three digits.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from llama.privacy.dates import Day, same_day
from llama.privacy.normalised import NormalisedText, is_unspaced
from llama.privacy.words import ADDRESS_WORDS, STREET_WORDS

LONG = 8  # letters and digits from which a form is found also in the middle of a longer word
PART = 3  # letters of a name's part
RUN = 6  # digits of a long number that are a secret by themselves

_CLITICS = ("nya", "ku", "mu", "lah", "kah", "pun", "s")
_BRACKETS = frozenset('()[]{}<>"“”')
_LETTER_GAP = 5  # signs between two letters of one word
_PHONE_PREFIX = re.compile(r"(?:(?:00)?62)?0?\Z|(?:00)?[1-9]\d{0,2}\Z")

Spans = Iterator[tuple[int, int]]


class Finder(Protocol):
    """Something that can be looked for."""

    def find(self, text: NormalisedText) -> Spans:
        """Give each stretch ``text[start:end]`` that writes it."""
        ...


class LetterForms:
    """Words, whatever their case, accents and separators.

    Args:
        exact: only with a capital at its beginning: for values that nobody declared.
        brackets: also where brackets stand between the letters.
    """

    def __init__(self, *, exact: bool = False, brackets: bool = False) -> None:
        self._exact, self._brackets = exact, brackets
        self._forms: dict[str, frozenset[int]] = {}  # compact forms; where their words meet

    def add(self, words: Sequence[str]) -> None:
        """Look for one or more words, unless they are too short together, or a number."""
        form = "".join(words)
        if form and not form.isdigit() and (len(form) >= PART or is_unspaced(form)):
            meet = frozenset(itertools.accumulate(len(w) for w in words[:-1]))
            meet |= {i for i in range(1, len(form)) if form[i - 1].isdigit() != form[i].isdigit()}
            self._forms[form] = self._forms.get(form, frozenset()) | meet

    def find(self, text: NormalisedText) -> Spans:
        """Give each stretch that writes one of the forms."""
        for form, meet in self._forms.items():
            start = text.compact.find(form)
            while start >= 0:
                end = start + len(form)
                if self._is_whole(text, start, end, meet):
                    span = text.span(start, end)
                    first = text.text[span[0]]
                    if not self._exact or first.isupper() or not first.isalpha():
                        yield span
                start = text.compact.find(form, start + 1)

    def _is_whole(self, text: NormalisedText, start: int, end: int, meet: frozenset[int]) -> bool:
        """Tell whether ``compact[start:end]`` is words by itself: not of the middle of another, nor of two others."""
        form = text.compact[start:end]
        gaps = [text.gap(i) for i in range(start + 1, end)]
        if any(len(gap) > _LETTER_GAP or not (self._brackets or _BRACKETS.isdisjoint(gap)) for gap in gaps):
            return False
        spaces = [i for i, gap in enumerate(gaps, start=1) if any(c.isspace() for c in gap)]
        if is_unspaced(form) or (len(form) >= LONG and not spaces):
            return True
        spelled_out = len(spaces) == len(gaps)
        if len(form) < LONG and not spelled_out and not meet.issuperset(spaces):  # Isa is not in "is a"
            return False
        return text.is_edge(start) and (
            text.is_edge(end) or any(text.compact.startswith(c, end) and text.is_edge(end + len(c)) for c in _CLITICS)
        )


class DigitForms:
    """Numbers, whatever their grouping.

    Args:
        phone: country codes and leading zeros before a number belong to it.
    """

    def __init__(self, *, phone: bool = False) -> None:
        self._phone = phone
        self.numbers: set[str] = set()  # long ones are found inside longer numbers too
        self.whole: set[str] = set()  # amounts, found only by themselves
        self.parted: set[str] = set()  # long numbers of which a part is secret by itself

    def find(self, text: NormalisedText) -> Spans:
        """Give each stretch that writes one of the numbers, or a long part of one."""
        if not (self.numbers or self.whole):
            return
        here = [number for number in self.numbers if number in text.compact]
        for start, end in text.runs:
            if text.compact[start:end] in self.whole:
                yield text.span(start, end)
            if not here and end - start < RUN:
                continue
            run = text.compact[start:end]
            for number in here:
                yield from self._inside(text, start, run, number)
            part = re.sub(r"^(?:0|62)", "", run) if self._phone else run
            if len(part) >= RUN and any(part in number for number in self.parted):
                yield text.span(start, end)
        if self.parted:
            for first, last, word in text.words:  # a part of a long number, among other numbers
                if len(word) >= RUN and word.isdigit() and any(word in number for number in self.parted):
                    yield first, last

    def _inside(self, text: NormalisedText, start: int, run: str, number: str) -> Spans:
        at = run.find(number)
        while at >= 0:
            first, last = start + at, start + at + len(number)
            # A short number is one only by itself: 40162 is not in 1.401.620.
            if len(number) >= LONG or _is_one_number(text, first, last):
                if self._phone and (prefix := _PHONE_PREFIX.search(run[:at])):
                    first -= len(prefix[0])
                yield text.span(first, last)
            at = run.find(number, at + 1)


def _is_one_number(text: NormalisedText, first: int, last: int) -> bool:
    """Tell whether the digits ``compact[first:last]`` stand together, with other signs or letters around them."""
    together = all(len(text.gap(i)) <= 1 for i in range(first + 1, last))
    return together and text.is_edge(first) and text.is_edge(last)


class DateForms:
    """Days, whatever the order and the words."""

    def __init__(self) -> None:
        self.days: set[Day] = set()

    def find(self, text: NormalisedText) -> Spans:
        """Give each stretch that writes one of the days."""
        if self.days:
            for start, end, days in text.all_dates:
                if any(same_day(day, own) for day in days for own in self.days):
                    yield start, end


class AmountForms:
    """Amounts, in figures and with words for their noughts."""

    def __init__(self) -> None:
        self.amounts: set[float] = set()

    def find(self, text: NormalisedText) -> Spans:
        """Give each stretch that writes one of the amounts; with a word such as *juta*, about that much is enough."""
        if self.amounts:
            for start, end, amount, scaled in text.amounts:
                if amount in self.amounts or (scaled and any(abs(amount - own) < 0.01 * own for own in self.amounts)):
                    yield start, end


class StreetForms:
    """Streets, whatever generic words stand around and between their own."""

    def __init__(self) -> None:
        self._cores: list[tuple[list[str], bool]] = []

    def add(self, core: list[str], *, beside_street_word: bool) -> None:
        """Look for a street's own words; a single one is its name only beside a word such as *jalan*."""
        self._cores.append((core, beside_street_word))

    def find(self, text: NormalisedText) -> Spans:
        """Give each stretch that writes one of the streets, with its generic words and house number."""
        words = [(i, word) for i, (_, _, word) in enumerate(text.words) if word not in ADDRESS_WORDS]
        for core, beside in self._cores:
            yield from _find_street(text, words, core, beside)


def _find_street(
    text: NormalisedText, words: list[tuple[int, str]], core: list[str], beside_street_word: bool
) -> Spans:
    for k in range(len(words) - len(core) + 1):
        if words[k][1] != core[0] or [w for _, w in words[k : k + len(core)]] != core:
            continue
        first, last = words[k][0], words[k + len(core) - 1][0]
        if last - first > 3 * len(core):
            continue
        if "\0" in text.text[text.words[first][0] : text.words[last][1]]:  # the gate's sign for a tag
            continue
        before = first
        while before > 0 and text.words[before - 1][2] in ADDRESS_WORDS:
            before -= 1
        beside = {w for _, _, w in text.words[before:first]} | {w for _, _, w in text.words[last + 1 : last + 2]}
        if not beside_street_word or beside & STREET_WORDS:
            after = last
            while after + 1 < len(text.words) and _belongs_to_a_street(text, after + 1):
                after += 1
            yield text.words[before][0], text.words[after][1]


def _belongs_to_a_street(text: NormalisedText, i: int) -> bool:
    """Tell whether word i goes on with the street before it: a kind of street, a house number, a letter of one."""
    start, _, word = text.words[i]
    _, end, before = text.words[i - 1]
    is_letter = len(word) == 1 and before.isdigit()
    return start - end <= 2 and (word in ADDRESS_WORDS or bool(re.fullmatch(r"\d{1,4}[a-z]?", word)) or is_letter)
