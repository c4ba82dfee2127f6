"""Finders: objects that search a text, among them those of days and amounts.

Every kind of value in this package is composed of finders: of letters, digits, days, amounts, and of words beside a
generic one.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

from llama.privacy.dates import Day, same_day
from llama.privacy.normalised import DATE, NormalisedText
from llama.privacy.spoken import COUNTED, counted, spoken_years_in

Spans = Iterator[tuple[int, int]]


class Finder(Protocol):
    """An object that finds one thing in a text."""

    def find(self, text: NormalisedText) -> Spans:
        """Yield each stretch ``text[start:end]`` that writes it."""
        ...

    def anchors(self) -> Collection[str] | None:
        """The anchors of which a text needs one to match (``NormalisedText.anchors``); None if there is no such set."""
        ...


def all_anchors(anchors: Iterable[str | None]) -> Collection[str] | None:
    """Return all anchors, or None if one is None."""
    found = set[str]()
    for anchor in anchors:
        if anchor is None:
            return None
        found.add(anchor)
    return found


def unless(nothing_sought: bool) -> Collection[str] | None:
    """Return the anchors of a finder without any: none if it has nothing to find, else None."""
    return () if nothing_sought else None


class DateForms:
    """Days, in any order and any words."""

    def __init__(self) -> None:
        self.days: set[Day] = set()

    def find(self, text: NormalisedText) -> Spans:
        """Yield each stretch that writes one of the days."""
        if self.days:
            by_day = text.once(_dates_by_day)
            found = (each for _, month, of_month in self.days for each in _dates_on(by_day, month, of_month))
            for start, end, day in dict.fromkeys(found):
                if any(same_day(day, own) for own in self.days):
                    yield start, end

    def anchors(self) -> Collection[str]:
        """Return the anchor of a date."""
        return (DATE,) if self.days else ()


_DatesByDay = dict[tuple[int, int | None], list[tuple[int, int, Day]]]


def _dates_by_day(text: NormalisedText) -> _DatesByDay:
    """Return all dates of a text by month and day."""
    found: _DatesByDay = {}
    for start, end, days in text.all_dates:
        for day in days:
            found.setdefault(day[1:], []).append((start, end, day))
    return found


def _dates_on(by_day: _DatesByDay, month: int, of_month: int | None) -> Iterator[tuple[int, int, Day]]:
    """Yield the dates that may mean this day: dates of the day, and dates of its month."""
    yield from by_day.get((month, of_month), ())
    if of_month is not None:
        yield from by_day.get((month, None), ())


_MONEY_BEFORE = re.compile(r"(?:[$€£¥₹₩₫฿]|(?<![^\W_])(?:rp|idr|usd|eur|gbp|sgd|aud|myr|rm|cad)\.?)[^\S\n]?$")
_MONEY_AFTER = re.compile(
    r"[^\S\n]?(?:[$€£¥₹₩₫฿]|(?:rupiah|dollars?|pounds?|euros?|usd|eur|gbp|sgd|ringgit)(?![^\W_]))"
)


class LabelledParts:
    """A day, a month and a year that have labels, as in a form. Each stays a separate number."""

    def __init__(self, days: set[Day]) -> None:
        self._days = days

    def find(self, text: NormalisedText) -> Spans:
        """Yield each such number of one of the days."""
        for start, end, day in text.labelled_dates:
            if any(same_day(day, own) for own in self._days):
                yield start, end

    def anchors(self) -> Collection[str] | None:
        """Return None, or nothing if no day is sought: such parts stand anywhere."""
        return unless(not self._days)


class AmountForms:
    """Amounts, in figures and with words for their zeros.

    Attributes:
        amounts: found wherever they are written.
        small: found only with a currency's sign or name: a number below a thousand may count anything.
    """

    def __init__(self) -> None:
        self.amounts: set[float] = set()
        self.small: set[float] = set()

    def find(self, text: NormalisedText) -> Spans:
        """Yield each stretch that writes one of the amounts."""
        if not (self.amounts or self.small):
            return
        other = text.with_digits_for_letters
        for each in (text, other) if other is not None else (text,):
            for start, end, amount, scaled in each.amounts:
                same = amount in self.amounts or (
                    scaled and any(abs(amount - own) < 1e-6 * own for own in self.amounts)
                )
                if same or (amount in self.small and _is_money(each.line, start, end)):
                    yield start, end

    def anchors(self) -> Collection[str] | None:
        """Return None, or nothing if no amount is sought: an amount is written in many ways."""
        return unless(not (self.amounts or self.small))


class AboutAsMuch:
    """Amounts with a word such as *juta* that are up to 1 % off. The written amount is what is restored."""

    def __init__(self, amounts: set[float]) -> None:
        self._amounts = amounts

    def find(self, text: NormalisedText) -> Spans:
        """Yield each such amount."""
        for start, end, amount, scaled in text.amounts if self._amounts else ():
            if scaled and amount not in self._amounts and any(abs(amount - own) < 0.01 * own for own in self._amounts):
                yield start, end

    def anchors(self) -> Collection[str] | None:
        """Return None, or nothing if no amount is sought: an amount is written in many ways."""
        return unless(not self._amounts)


def _is_money(line: str, start: int, end: int) -> bool:
    """Return whether a currency stands before or after a number."""
    return (
        _MONEY_BEFORE.search(line[max(0, start - 6) : start]) is not None or _MONEY_AFTER.match(line, end) is not None
    )


_BEFORE_YEAR = (
    r"(?:born|birth ?year|year of birth|kelahiran|lahir(?:nya)?|tahun kelahiran|tahun lahir|angkatan kelahiran|b\.)"
    r"[^\w\n]{0,3}(?:(?:in|on|the|year|back|di|pada|tahun|thn|th|sejak|is|adalah|was)\b[^\w\n]{0,3}){0,3}['’]?"
)
_BEFORE_AGE = (
    r"(?:aged?|turns?|turned|turning|umur|umurnya|umurku|usia|usianya|usiaku|berusia|berumur|seusia|ultah|ulang tahun|"
    r"birthday|i am|i['’]?m|he is|he['’]?s|she is|she['’]?s|almost|nearly)"
    r"[^\w\n]{0,3}(?:(?:is|am|now|just|already|of|the|big|saya|aku|dia|sekarang|sudah|udah|baru|genap|masih|hampir|"
    r"yang|adalah|ke|my|almost|nearly|about|around|sekitar|mau)\b[^\w\n]{0,3}){0,3}"
)
_AFTER_AGE = (
    r"[^\w\n]{0,2}(?:years?[^\w\n]old|yrs?[^\w\n]old|y\.?/?o\b|years?[^\w\n]of[^\w\n]age|(?:st|nd|rd|th)[^\w\n]"
    r"(?:birthday|bday)|tahun usia|tahun umur)"
)
_AGE = rf"(?:\d{{1,3}}|{COUNTED})"
_BIRTH_YEARS = re.compile(rf"(?<![^\W_]){_BEFORE_YEAR}(?P<year>\d{{4}}|\d{{2}})(?![\d./-]?\d)")
_AGES = re.compile(
    rf"(?<![^\W_]){_BEFORE_AGE}(?P<age>{_AGE})(?!\d|[.,:/-]\d|\s?(?:%|cm|kg|km|min|ribu|juta|orang|people|am|pm))"
    rf"|(?<![\d.,])(?<![^\W\d_])(?P<before>{_AGE}){_AFTER_AGE}"
    r"|(?:^|(?<=\n))(?P<noted>\d{2})[^\S\n]?[fm](?![^\W_])"
    rf"|(?<![^\W_])(?:baru|sudah|udah|dah|genap|masih|hampir|jalan)\s(?P<so_far>{_AGE})\s(?:tahun|thn|th)\b(?!\s(?:lalu|"
    r"kerja|bekerja|menikah|nikah|di|sebagai|jadi|tinggal|bersama|pengalaman|lebih|sejak|ini))"
)


def _years_in(text: NormalisedText) -> list[tuple[int, int, int]]:
    found = [(*m.span("year"), int(m["year"])) for m in _BIRTH_YEARS.finditer(text.line.replace("_", " "))]
    return [*found, *spoken_years_in(text.line)]


def _ages_in(text: NormalisedText) -> list[tuple[int, int, int]]:
    found = (
        (m, next(g for g in ("age", "before", "so_far", "noted") if m[g]))
        for m in _AGES.finditer(text.line.replace("_", " "))
    )
    return [(*m.span(g), int(m[g]) if m[g].isdigit() else counted(m[g])) for m, g in found]


class BirthYears:
    """A year of birth, where a word marks it as one: *born in 1991*, *kelahiran '91*."""

    def __init__(self, years: Iterable[int]) -> None:
        self._years = set(years)

    def find(self, text: NormalisedText) -> Spans:
        """Yield each such year."""
        for start, end, year in text.once(_years_in) if self._years else ():
            if any(year in (own, own % 100) for own in self._years):
                yield start, end

    def anchors(self) -> Collection[str] | None:
        """Return None, or nothing if no year is sought: a year is written in figures and in words."""
        return unless(not self._years)


class Ages:
    """An age, where a word marks it as one: *she turns 35*, *umur 34*. A birth date gives it by today's date.

    Args:
        ages: in years, as declared.
        born: days of birth.
        today: the date from which an age is counted.
    """

    def __init__(self, ages: Iterable[int], born: Iterable[Day], today: dt.date) -> None:
        self._ages = set(ages)
        for year, _, _ in born:
            if year is not None and year > 99 and 0 <= today.year - year <= 120:
                self._ages |= {today.year - year - 1, today.year - year, today.year - year + 1}

    def find(self, text: NormalisedText) -> Spans:
        """Yield each such age."""
        for start, end, age in text.once(_ages_in) if self._ages else ():
            if age in self._ages:
                yield start, end

    def anchors(self) -> Collection[str] | None:
        """Return None, or nothing if no age is sought: an age is written in figures and in words."""
        return unless(not self._ages)
