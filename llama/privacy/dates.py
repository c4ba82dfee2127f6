"""The grammar of dates in Indonesian and English: find each date in a text, with all its possible meanings.

Knows nothing about: values, tags, sheets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from llama.privacy.labelled_dates import LabelledDates
from llama.text.dates import MONTHS

Day = tuple[int | None, int, int | None]
"""Year (None: not written; below 100: two digits), month, day (None: not written)."""

_MONTH_WORDS = {
    **{name.casefold(): i for names in MONTHS.values() for i, name in enumerate(names, start=1)},
    **{name[:3].casefold(): i for names in MONTHS.values() for i, name in enumerate(names, start=1)},
    "ags": 8,
    "agt": 8,
    "agust": 8,
    "sept": 9,
    "nop": 11,
    "nopember": 11,
    "pebruari": 2,
    "peb": 2,
}
_MONTH = "|".join(sorted(_MONTH_WORDS, key=len, reverse=True))
_SEP = r"[\s.,/\-–—]{0,3}"
_WORD_END = r"(?![^\W\d_])"
_OF = r"(?:(?:day\s)?of\s(?:the\smonth\sof\s)?|(?:di\s|pada\s)?(?:bulan|bln)\b\.?\s?)?"  # between a day and its month
_YEAR_WORD = r"(?:(?:in\s|of\s)?(?:the\s)?(?:year|tahun|thn|th)\b\.?\s?|of\s|in\s|a\.?d\.?\s)?"
# Two digits after a day are a year, unless they belong to a count or a time.
_YEAR = (
    rf"(?P<y>\d{{4}}(?!\d)|\d{{2}}(?!\d|[.:]\d|\s?(?:%|(?:{_MONTH}|orang|people|person|pcs|buah|kado|gifts?|guests?|tamu|"
    rf"anak|kali|ribu|juta|persen|percent)\b)))"
)
DATES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<!\d)(?P<a>\d{4}|\d{1,2})\s?(?P<sep>[./\-–—\s])\s?(?P<b>\d{1,2})\s?(?P=sep)\s?(?P<c>\d{4}|\d{1,2})(?!\d)",
        rf"(?<!\d)(?P<d>\d{{1,2}})\s?(?:st|nd|rd|th|d\b)?{_SEP}{_OF}(?P<m>{_MONTH}){_WORD_END}"
        rf"(?:{_SEP}{_YEAR_WORD}['’]?{_YEAR})?",
        rf"(?<![^\W\d_])(?P<m>{_MONTH}){_WORD_END}{_SEP}(?:on\s)?(?:the\s)?(?P<d>\d{{1,2}})(?!\d)\s?(?:st|nd|rd|th)?"
        rf"(?:{_SEP}{_YEAR_WORD}['’]?(?<=['’\s,./-]){_YEAR})?",
        rf"(?<!\d)(?P<y>\d{{4}}){_SEP}(?P<m>{_MONTH}){_WORD_END}{_SEP}(?P<d>\d{{1,2}})(?!\d)",
        rf"(?<![^\W\d_])(?P<m>{_MONTH}){_WORD_END}{_SEP}(?:of\s)?(?P<y>\d{{4}})(?!\d)"
        rf"(?:[\s,]{{1,2}}(?:on\s)?the\s(?P<d>\d{{1,2}})(?:st|nd|rd|th))?",
    )
)
"""Patterns of unmistakable dates."""

_ROMAN_NUMERALS = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii")
_ROMAN = {numeral: month for month, numeral in enumerate(_ROMAN_NUMERALS, start=1)}
_DAY_WORDS = {
    word: day
    for words in (
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
        "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth twenty-first twenty-second twenty-third "
        "twenty-fourth twenty-fifth twenty-sixth twenty-seventh twenty-eighth twenty-ninth thirtieth thirty-first",
        "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen twenty twenty-one twenty-two twenty-three twenty-four twenty-five twenty-six twenty-seven "
        "twenty-eight twenty-nine thirty thirty-one",
        "satu dua tiga empat lima enam tujuh delapan sembilan sepuluh sebelas dua-belas tiga-belas empat-belas "
        "lima-belas enam-belas tujuh-belas delapan-belas sembilan-belas dua-puluh dua-puluh-satu dua-puluh-dua "
        "dua-puluh-tiga dua-puluh-empat dua-puluh-lima dua-puluh-enam dua-puluh-tujuh dua-puluh-delapan "
        "dua-puluh-sembilan tiga-puluh tiga-puluh-satu",
    )
    for day, word in enumerate(words.split(), start=1)
}
_LABELLED = LabelledDates(_MONTH_WORDS, _DAY_WORDS)
_DAY_WORD = "|".join(w.replace("-", "[- ]?") for w in sorted(_DAY_WORDS, key=len, reverse=True))
_ANY = r"(?:[^\S\n]?(?:[^\w\n:]|_)[^\S\n]?|[^\S\n]{1,2})"  # between two numbers of a date
_DAY_IN_DIGITS, _MONTH_IN_DIGITS = r"(?P<d>\d{1,2})(?!\d)", r"(?P<n>\d{1,2})(?!\d)"
_TH = r"(?:st|nd|rd|th)"
_TGL, _BLN = r"(?:tgl|tanggal|day)(?:nya)?\.?", r"(?:bln|bulan|month)(?:nya)?\.?"
_THN = r"(?:thn|th|tahun|year)(?:nya)?\.?"
_LISTED = r"\W{0,4}"
_BIRTH = (
    r"(?:born|birthday|b-?day|birth|dob|lahir|kelahiran|ultah|ulang tahun|tgl|tanggal|ttl|hbd|"
    r"anniversary|married|wedding|nikah|menikah|pernikahan)"
)
RARE_DATES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<!\d)(?P<a>\d{4}|\d{1,2})\s?(?P<sep>[^\w\n:]|_)\s?(?P<b>\d{1,2})\s?(?P=sep)\s?(?P<c>\d{4}|\d{1,2})(?!\d)",
        rf"(?<!\d)(?P<a>\d{{4}}|\d{{1,2}}){_ANY}(?P<b>\d{{1,2}}){_ANY}(?P<c>\d{{4}}|\d{{1,2}})(?!\d)",
        rf"(?<!\d)(?P<d>\d{{1,2}})[-/.\s]{{1,2}}(?P<m>{'|'.join(sorted(_ROMAN, key=len, reverse=True))})[-/.\s]{{1,2}}"
        r"(?P<y>\d{4}|\d{2})(?!\d)",
        r"(?<!\d)(?<!\d[./-])(?P<n>\d{1,2})\s?[/.-]\s?(?P<y>\d{4})(?!\d)",
        rf"(?<![^\W\d_])(?P<m>{_MONTH}){_SEP}['’](?P<y>\d{{2}})(?!\d)",
        # With words: tgl 12 bln 4 thn 1991; tahun 1991 bulan 4 tanggal 12; month 4, day 12; the 12th of the 4th 1991.
        rf"(?<!\d){_DAY_IN_DIGITS}{_LISTED}{_BLN}{_LISTED}(?:ke-?)?(?:{_MONTH_IN_DIGITS}|(?P<m>{_MONTH}){_WORD_END})"
        rf"(?:{_LISTED}{_THN}{_LISTED}['’]?(?P<y>\d{{4}}|\d{{2}})(?!\d))?",
        rf"{_THN}{_LISTED}(?P<y>\d{{4}}){_LISTED}{_BLN}{_LISTED}(?:{_MONTH_IN_DIGITS}|(?P<m>{_MONTH}){_WORD_END})"
        rf"{_LISTED}{_TGL}{_LISTED}{_DAY_IN_DIGITS}",
        rf"{_BLN}{_LISTED}(?:{_MONTH_IN_DIGITS}|(?P<m>{_MONTH}){_WORD_END}){_LISTED}{_TGL}{_LISTED}{_DAY_IN_DIGITS}"
        rf"(?:{_LISTED}(?:{_THN}{_LISTED})?(?P<y>\d{{4}})(?!\d))?",
        rf"{_TGL}{_LISTED}{_DAY_IN_DIGITS}{_LISTED}(?P<m>{_MONTH}){_WORD_END}{_LISTED}{_THN}{_LISTED}"
        r"(?P<y>\d{4}|\d{2})(?!\d)",
        rf"(?<!\d)(?P<d>\d{{1,2}}){_TH}\s(?:day\s)?of\s(?:the\s)?(?P<n>\d{{1,2}}){_TH}?(?:\smonth)?"
        r"(?:[\s,]{1,2}(?:(?:of|in)\s)?(?P<y>\d{4})(?!\d))?",
        rf"{_THN}{_LISTED}(?P<y>\d{{4}})\W{{1,3}}(?:(?:on|in|pada|di|the)\s){{0,2}}(?P<m>{_MONTH}){_WORD_END}\s(?:the\s)?"
        rf"{_DAY_IN_DIGITS}",
        rf"{_THN}{_LISTED}(?P<y>\d{{4}})\W{{1,3}}(?:(?:on|in|pada|di|the|tanggal|tgl)\s){{0,2}}(?P<d>\d{{1,2}}){_TH}?\s{_OF}"
        rf"(?P<m>{_MONTH}){_WORD_END}",
        # The day in words: the seventeenth of August, tujuh belas Agustus.
        rf"(?<![^\W\d_])(?P<w>{_DAY_WORD})\s{_OF}(?P<m>{_MONTH}){_WORD_END}(?:{_SEP}{_YEAR_WORD}(?P<y>\d{{4}})(?!\d))?",
        rf"(?<![^\W\d_])(?P<m>{_MONTH}){_SEP}(?:the\s)?(?P<w>{_DAY_WORD}){_WORD_END}(?:{_SEP}(?P<y>\d{{4}})(?!\d))?",
        # Day and month alone, where a word says what they are: born 12/4.
        rf"(?<![^\W_]){_BIRTH}(?:nya|ku)?[^\w\n]{{1,3}}(?:[^\W\d_]{{1,10}}[^\w\n]{{1,2}}){{0,3}}"
        r"(?P<at>(?P<e>\d{1,2})\s?[/.\-]\s?(?P<f>\d{1,2})(?![/.\-]?\d)"
        rf"(?:{_LISTED}{_THN}{_LISTED}(?P<y>\d{{4}})(?!\d))?)",
    )
)
"""Patterns that are a date only if that date is sought: other signs, a month as a number or Roman numeral, no day."""


def dates_in(line: str, patterns: Sequence[re.Pattern[str]] = DATES) -> Iterator[tuple[int, int, set[Day]]]:
    """Yield the dates in a folded line, each with all its possible meanings. They may overlap."""
    for pattern in patterns:
        at = "at" if "at" in pattern.groupindex else 0
        m = pattern.search(line)
        while m is not None:
            possible = {o for o in _orders(m) if 1 <= o[1] <= 12 and (o[2] is None or 1 <= o[2] <= 31)}
            if possible:
                yield m.start(at), m.end(at), possible
            m = pattern.search(line, m.start() + 1)  # the next date may begin inside this one: 2 12 04 1991


def labelled_dates_in(line: str) -> Iterator[tuple[int, int, Day]]:
    """Yield the parts of labelled dates in a folded line: start and end of a part, and the date that all parts form."""
    for start, end, (year, month, day) in _LABELLED.find(line):
        if 1 <= month <= 12 and 1 <= day <= 31:
            yield start, end, (year, month, day)


def _orders(m: re.Match[str]) -> list[Day]:
    groups = m.groupdict()
    if "a" in groups:
        a, b, c = (int(groups[g]) for g in "abc")
        if len(groups["a"]) == 4:
            return [(a, b, c), (a, c, b)] if len(groups["c"]) < 4 else []
        if len(groups["c"]) == 1:
            return []
        return [(c, b, a), (c, a, b), *([(a, b, c)] if len(groups["c"]) == 2 else [])]
    if "e" in groups:
        e, f, of = int(groups["e"]), int(groups["f"]), int(groups["y"]) if groups["y"] else None
        return [(of, f, e), (of, e, f)]
    year, day = groups["y"], groups.get("d")
    if groups.get("w"):
        day = str(_DAY_WORDS[_hyphened(groups["w"])])
    month = int(groups["n"]) if groups.get("n") else _MONTH_WORDS.get(groups["m"]) or _ROMAN[groups["m"]]
    orders: list[Day] = [(int(year) if year else None, month, int(day) if day else None)]
    if day and year and len(year) == 2:  # or the two digits count something that follows
        orders.append((None, month, int(day)))
    return orders


def _hyphened(word: str) -> str:
    """Write a day in words with hyphens, as in :data:`_DAY_WORDS`."""
    bare = re.sub(r"[- ]", "", word)
    return next(each for each in _DAY_WORDS if each.replace("-", "") == bare)


def same_day(day: Day, own: Day) -> bool:
    """Return whether a date in a text can be the date ``own``. A part that is not written always fits."""
    (year, month, of_month), (own_year, own_month, own_day) = day, own
    years = (
        None in (year, own_year)
        or year == own_year
        or ((year or 0) % 100 == (own_year or 0) % 100 and ((year or 0) < 100 or (own_year or 0) < 100))
    )
    return month == own_month and of_month in (None, own_day) and years
