"""Dates whose parts have labels: *Tgl : 23, Bln : 09, Thn : 1976*; *the twenty-third day of the ninth month, 1976*.

Knows nothing about: values, tags, sheets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice

DISTANCE = 30  # most signs between two parts of one date

_LABELS = {
    "day": r"(?:day|date|dd|tgl|tanggal|hari)(?:nya)?",
    "month": r"(?:month|mm|bln|bulan)(?:nya)?",
    "year": r"(?:year|yyyy|yy|thn|tahun|th)(?:nya)?",
}
_BARE_YEAR = re.compile(r"(?<![\d.,/-])(?:1[89]|20)\d\d(?![\d.,/-]*\d)")

DatePart = tuple[int, int, str, int]
"""Start, end, part of a date, and its number."""


class LabelledDates:
    """Finder of dates by the labels of their parts.

    Args:
        months: names of months, each with its number.
        days: numbers in words up to 31, with hyphens between words.
    """

    def __init__(self, months: Mapping[str, int], days: Mapping[str, int]) -> None:
        self._numbers = {**{word.replace("-", ""): n for word, n in days.items()}, **months}
        words = [re.escape(w).replace("\\-", "[- ]?") for w in sorted([*days, *months], key=len, reverse=True)]
        ordinal = rf"(?:\d{{1,2}}(?:st|nd|rd|th|d)|{'|'.join(words)})(?![^\W_])"
        number = rf"(?:\d{{1,4}}|{ordinal})(?![^\W_])"
        # The label comes last (the 23rd day) or first, also with another word between: dob day=23, tgl lahir : 23.
        between = r"(?:[ ](?:of[ ])?[a-z]{1,8})?\W{0,4}(?:ke-?)?"
        self._patterns = [
            (label, re.compile(pattern))
            for form in (
                rf"(?<![^\W_])(?P<n>{ordinal})[ ]LABEL(?![^\W_])",
                rf"(?<![^\W_])LABEL{between}(?P<n>{number})",
            )
            for label, words_ in _LABELS.items()
            for pattern in [form.replace("LABEL", words_)]
        ]

    def find(self, line: str) -> Iterator[tuple[int, int, tuple[int | None, int, int]]]:
        """Yield the parts of dates in a folded line: start and end of a part, and the whole date (year, month, day)."""
        parts = sorted(self._parts_in(line.replace("_", " ")))
        for i, first in enumerate(parts):
            date, last = {first[2]: first}, first
            for part in islice(parts, i + 1, i + 4):
                if part[0] - last[1] > DISTANCE or part[2] in date:
                    break
                date[part[2]] = last = part
            if "day" in date and "month" in date:
                year = date["year"][3] if "year" in date else None
                for start, end, _, _ in date.values():
                    yield start, end, (year, date["month"][3], date["day"][3])

    def _parts_in(self, line: str) -> list[DatePart]:
        found = dict[tuple[int, int], DatePart]()
        for label, pattern in self._patterns:
            for m in pattern.finditer(line):
                if m.span("n") not in found:
                    found[m.span("n")] = (*m.span("n"), label, self._number(m["n"]))
        for m in _BARE_YEAR.finditer(line) if found else ():
            found.setdefault(m.span(), (*m.span(), "year", int(m[0])))
        return list(found.values())

    def _number(self, said: str) -> int:
        digits = re.match(r"\d+", said)
        return int(digits[0]) if digits else self._numbers.get(re.sub(r"[- ]", "", said), 0)
