"""The grammar of amounts in Indonesian and English: find each amount in a text and read its value.

A number beside other numbers has several readings. All of them are returned: ``38,500 2`` contains 38, 500, 2 and
38,500. A point, a comma or an apostrophe can join two groups of digits into one number. One space can, too, before a
group of exactly three digits. The end of a line never joins two groups.

Knows nothing about: values, tags, sheets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from llama.privacy.spoken import spoken_amounts_in
from llama.text.money import SCALES, number_of

MAX_GROUPS = 8  # groups of digits in one number: enough for any amount of money


class Amount(NamedTuple):
    """A reading of ``text[start:end]``: ``value``; ``scaled`` if a word such as *juta* gives the number of zeros."""

    start: int
    end: int
    value: float
    scaled: bool


_SCALE = "|".join(sorted(SCALES, key=len, reverse=True))
_DIGITS = re.compile(r"\d+")
_NUMBER = re.compile(r"\d+(?:[.,'’ ]\d+)*")
_AFTER = re.compile(
    r"(?P<part>[^\S\n]?(?:½|¼|¾|setengah|seperempat|and a half|and a quarter))?"
    rf"(?:[^\S\n]?-?(?P<scale>{_SCALE})(?:an)?(?![^\W\d_]))"
)
_PARTS = {"½": 0.5, "¼": 0.25, "¾": 0.75, "setengah": 0.5, "seperempat": 0.25, "and a half": 0.5, "and a quarter": 0.25}
_JOINS = re.compile(r"[^\S\n]{0,2}(?:,|dan|and|&|\+)?[^\S\n]{0,2}")  # between 14 juta and 250 ribu
_CELL_ENDS = ",;\t|"  # a number beside one of these may be a cell of a row


def amounts_in(line: str) -> Iterator[Amount]:
    """Yield the amounts in a folded line, in every reading: ``15.000.000``, ``15 juta``, ``14 juta 250 ribu``."""
    before: Amount | None = None  # the last amount with a scale word
    scale_before = 0.0
    for run in _NUMBER.finditer(line):
        scale, part, end = _scale_after(line, run.end())
        for start, stop, value in _DigitGroups(line, run, scale != 1).readings():
            scaled = scale != 1 and stop == run.end()
            yield Amount(start, end, (value + part) * scale, True) if scaled else Amount(start, stop, value, False)
        sums = list[Amount]()
        if before is not None and _JOINS.fullmatch(line, before.end, run.start()):
            sums = [
                Amount(before.start, end, before.value + more, True)
                for more in _added(run[0], scale_before, scale, part)
            ]
            yield from sums
        if sums:
            before = sums[0]
        else:
            value_ = number_of(run[0])
            before = None if value_ is None else Amount(run.start(), end, (value_ + part) * scale, True)
        before, scale_before = (before, scale) if scale != 1 else (None, 0.0)


def all_amounts_in(line: str) -> Iterator[Amount]:
    """Yield the amounts in a folded line, in figures and in words."""
    yield from amounts_in(line)
    yield from (Amount(start, end, value, True) for start, end, value in spoken_amounts_in(line))


def main_amounts_in(line: str) -> list[Amount]:
    """Return the amounts in a folded line, each in its longest reading."""
    found = sorted(all_amounts_in(line), key=lambda a: (a.start, -a.end))
    kept = list[Amount]()
    for each in found:
        if not kept or each.end > kept[-1].end or each[:2] == kept[-1][:2]:
            kept.append(each)
    return kept


def _scale_after(line: str, end: int) -> tuple[float, float, int]:
    """Read the word after a number. Return its scale, the half or quarter before it, and where it ends."""
    m = _AFTER.match(line, end)
    if m is None:
        return 1.0, 0.0, end
    return SCALES[m["scale"]], _PARTS.get((m["part"] or "").strip(), 0.0), m.end()


def _added(number: str, scale_before: float, scale: float, part: float) -> Iterator[float]:
    """Yield the amounts that can follow *14 juta* and add to it: 250 ribu, 250.000, 250."""
    value = number_of(number)
    if value is None or (value + part) * scale >= scale_before:
        return
    yield (value + part) * scale
    if scale == 1 and len(number) == 3:  # people omit the word for thousands
        yield value * scale_before / 1000


class _DigitGroups:
    """Groups of digits with one sign between neighbours, and all numbers that they can form."""

    def __init__(self, line: str, run: re.Match[str], scaled: bool) -> None:
        self._groups = [(m.start(), m.end(), m[0]) for m in _DIGITS.finditer(line, run.start(), run.end())]
        self._signs = [line[a[1]] for a in self._groups[:-1]]
        self._scaled = scaled
        # 1,250,000 is one number, but in "2,385,000,yes" the first comma may separate two cells.
        before, after = line[max(0, run.start() - 1) : run.start()], line[run.end() : run.end() + 2]
        self._is_row = (before in _CELL_ENDS and before != "") or (after[:1] in _CELL_ENDS and after[1:].strip() != "")

    def readings(self) -> Iterator[tuple[int, int, float]]:
        """Yield start, end and value of each number that one group or several neighbours can form."""
        count = len(self._groups)
        for first in range(count):
            if first and self._goes_on(first):
                continue
            for last in range(first, min(count, first + MAX_GROUPS)):
                if last + 1 == count or not self._goes_on(last + 1):
                    for value in self._values(first, last):
                        yield self._groups[first][0], self._groups[last][1], value

    def _goes_on(self, i: int) -> bool:
        """Return whether group i continues the number before it: 1.250.000, 1,5 juta.

        A comma in a row of cells separates them.
        """
        sign, before, this = self._signs[i - 1], self._groups[i - 1][2], self._groups[i][2]
        if sign == " " or (sign == "," and self._is_row):
            return False
        is_fraction = self._scaled and i + 1 == len(self._groups) and sign in ".,"
        return is_fraction or (len(this) == 3 and len(before) <= 3)

    def _values(self, first: int, last: int) -> Iterator[float]:
        groups = [g for _, _, g in self._groups[first : last + 1]]
        signs = self._signs[first:last]
        if len(groups) == 1:
            yield float(groups[0])
            return
        if _are_grouped(groups, signs):
            yield float("".join(groups))
        if signs[-1] in ".,":
            whole, fraction = groups[:-1], groups[-1]
            one = len(whole) == 1 or (_are_grouped(whole, signs[:-1]) and signs[-2] != signs[-1])
            if one and (len(fraction) <= 2 or (self._scaled and last + 1 == len(self._groups))):
                yield float("".join(whole) + "." + fraction)


def _are_grouped(groups: Sequence[str], signs: Sequence[str]) -> bool:
    """Return whether the groups are the thousands of one number, or of an Indian one: 12,37,500."""
    if len(groups[0]) > 3 or len(set(signs)) > 1 or len(groups[-1]) != 3:
        return False
    inner = {len(g) for g in groups[1:-1]}
    return inner <= {3} or (inner == {2} and len(groups[0]) <= 2 and signs[0] == ",")
