"""The grammar of dates in Indonesian and English: which stretch of a text writes one, and all that it can mean.

Knows nothing about: values, tags, sheets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from llama.privacy.profile import MONTHS

_MONTH_WORDS = {
    **{name.casefold(): i for names in MONTHS.values() for i, name in enumerate(names, start=1)},
    **{name[:3].casefold(): i for names in MONTHS.values() for i, name in enumerate(names, start=1)},
    "ags": 8, "agt": 8, "agust": 8, "sept": 9, "nop": 11, "nopember": 11, "pebruari": 2, "peb": 2,
}  # fmt: skip
_MONTH = "|".join(sorted(_MONTH_WORDS, key=len, reverse=True))
_SEP = r"[\s.,/\-–—]{0,3}"
_WORD_END = r"(?![^\W\d_])"
# Two digits after a day are a year, unless they count or time something.
_YEAR = (
    rf"(?P<y>\d{{4}}(?!\d)|\d{{2}}(?!\d|[.:]\d|\s?(?:%|(?:{_MONTH}|orang|people|person|pcs|buah|kado|gifts?|guests?|tamu|"
    rf"anak|kali|ribu|juta|persen|percent)\b)))"
)
DATES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<!\d)(?P<a>\d{4}|\d{1,2})\s?(?P<sep>[./\-–—\s])\s?(?P<b>\d{1,2})\s?(?P=sep)\s?(?P<c>\d{4}|\d{1,2})(?!\d)",
        rf"(?<!\d)(?P<d>\d{{1,2}})\s?(?:st|nd|rd|th)?{_SEP}(?:of\s|bulan\s)?(?P<m>{_MONTH}){_WORD_END}(?:{_SEP}['’]?{_YEAR})?",
        rf"(?<![^\W\d_])(?P<m>{_MONTH}){_WORD_END}{_SEP}(?P<d>\d{{1,2}})(?!\d)\s?(?:st|nd|rd|th)?"
        rf"(?:{_SEP}['’]?(?<=['’\s,./-]){_YEAR})?",
        rf"(?<!\d)(?P<y>\d{{4}}){_SEP}(?P<m>{_MONTH}){_WORD_END}{_SEP}(?P<d>\d{{1,2}})(?!\d)",
        rf"(?<![^\W\d_])(?P<m>{_MONTH}){_WORD_END}{_SEP}(?P<y>\d{{4}})(?!\d)",
    )
)
# What is a date only to who looks for that very one: other signs, the month as a number or in Roman ones, no day.
_ROMAN_NUMERALS = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii")
_ROMAN = {numeral: month for month, numeral in enumerate(_ROMAN_NUMERALS, start=1)}
RARE_DATES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<!\d)(?P<a>\d{4}|\d{1,2})\s?(?P<sep>[^\w\n:]|_)\s?(?P<b>\d{1,2})\s?(?P=sep)\s?(?P<c>\d{4}|\d{1,2})(?!\d)",
        rf"(?<!\d)(?P<d>\d{{1,2}})[-/.\s]{{1,2}}(?P<m>{'|'.join(sorted(_ROMAN, key=len, reverse=True))})[-/.\s]{{1,2}}"
        r"(?P<y>\d{4}|\d{2})(?!\d)",
        r"(?<!\d)(?<!\d[./-])(?P<n>\d{1,2})\s?[/.-]\s?(?P<y>\d{4})(?!\d)",
        rf"(?<![^\W\d_])(?P<m>{_MONTH}){_SEP}['’](?P<y>\d{{2}})(?!\d)",
    )
)

Day = tuple[int | None, int, int | None]
"""Year (None: not written; below 100: as two digits), month, day (None: not written)."""


def dates_in(line: str, patterns: Sequence[re.Pattern[str]] = DATES) -> Iterator[tuple[int, int, set[Day]]]:
    """Find the dates in a folded line, each with all that it can mean; they may overlap."""
    for pattern in patterns:
        m = pattern.search(line)
        while m is not None:
            possible = {o for o in _orders(m) if 1 <= o[1] <= 12 and (o[2] is None or 1 <= o[2] <= 31)}
            if possible:
                yield m.start(), m.end(), possible
            m = pattern.search(line, m.start() + 1)  # the next may begin inside this one: 2 12 04 1991


def _orders(m: re.Match[str]) -> list[Day]:
    groups = m.groupdict()
    if "a" in groups:
        a, b, c = (int(groups[g]) for g in "abc")
        if len(groups["a"]) == 4:
            return [(a, b, c)]
        if len(groups["c"]) == 1:
            return []
        return [(c, b, a), (c, a, b), *([(a, b, c)] if len(groups["c"]) == 2 else [])]
    year, day = groups["y"], groups.get("d")
    month = int(groups["n"]) if "n" in groups else _MONTH_WORDS.get(groups["m"]) or _ROMAN[groups["m"]]
    orders: list[Day] = [(int(year) if year else None, month, int(day) if day else None)]
    if day and year and len(year) == 2:  # or a number of something that follows
        orders.append((None, month, int(day)))
    return orders


def same_day(day: Day, own: Day) -> bool:
    """Tell whether a date in a text can be the one that is meant; what is not written there fits."""
    (year, month, of_month), (own_year, own_month, own_day) = day, own
    years = (
        None in (year, own_year)
        or year == own_year
        or ((year or 0) % 100 == (own_year or 0) % 100 and ((year or 0) < 100 or (own_year or 0) < 100))
    )
    return month == own_month and of_month in (None, own_day) and years
