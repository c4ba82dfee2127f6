"""A value made coarser: birth date → decade, age → ten years, address → city, income → band.

What cannot be read is not guessed: the answer is None, and the field is treated as secret.
"""

from __future__ import annotations

import datetime as dt
import re

from llama.privacy.forms import amounts_in, dates_in
from llama.privacy.patterns import CITIES, PROVINCES
from llama.privacy.policy import Generaliser
from llama.privacy.profile import Value, text_of
from llama.privacy.words import STREET_WORDS

_RUPIAH_BANDS = (0, 5, 10, 20, 50, 100)  # millions


def generalised(value: Value, how: Generaliser, language: str) -> str | None:
    """The coarser form in ``en`` or ``id``, or None."""
    text = text_of(value)
    if how is Generaliser.DECADE:
        year = _year(value, text)
        return None if year is None else f"{'tahun ' if language == 'id' else ''}{year // 10 * 10}{_suffix(language)}"
    if how is Generaliser.AGE_BAND:
        age = re.search(r"\d{1,3}", text)
        if age is None or int(age[0]) > 130:
            return None
        low = int(age[0]) // 10 * 10
        return f"{low}–{low + 9} {'tahun' if language == 'id' else 'years'}"
    if how is Generaliser.CITY:
        return city_of(text)
    amounts = [amount for _, _, amount in amounts_in(text.casefold())]
    sign = re.search(r"[$€£¥]|\b(?:usd|eur|gbp|sgd)\b", text.casefold())
    return _band(amounts[0], language, sign[0].upper() if sign else "") if len(amounts) == 1 else None


def city_of(address: str) -> str | None:
    """The city in an address: a known one, else a last part that is only words."""
    known = [m for m in CITIES.finditer(address) if not _names_a_street(address[: m.start()])]
    if known:
        return known[-1][0].strip()
    parts = [part.strip() for part in re.split(r"[,;\n]", address) if part.strip()]
    for part in reversed(parts[1:]):
        words = re.sub(r"\b(?:[A-Z]{2})?\s*\d{4,6}(?:-\d{4})?$", "", part).strip()
        if words and not any(c.isdigit() for c in words) and len(words) <= 40 and not PROVINCES.fullmatch(words):
            return words
    return None


def _names_a_street(before: str) -> bool:
    """Whether what stands before a city's name makes it a street's: Jl. Surabaya."""
    words = re.findall(r"[^\W_]+", re.split(r"[,;\n]", before)[-1])
    return bool(words) and words[-1].casefold() in STREET_WORDS


def _year(value: Value, text: str) -> int | None:
    if isinstance(value, dt.date):
        return value.year
    years = {year for _, _, days in dates_in(text.casefold()) for year, _, _ in days if year and year > 99}
    if not years:
        years = {int(year) for year in re.findall(r"(?<!\d)(?:1[89]|20)\d\d(?!\d)", text)}
    return years.pop() if len(years) == 1 else None


def _suffix(language: str) -> str:
    return "-an" if language == "id" else "s"


def _band(amount: float, language: str, sign: str) -> str:
    million, per = ("juta", "rupiah") if language == "id" else ("million", "rupiah")
    if sign or amount < 200_000:  # surely not rupiah
        low, thousand = int(amount // 25_000) * 25, "ribu" if language == "id" else "thousand"
        return f"{sign}{' ' if len(sign) > 1 else ''}{low}–{low + 25} {thousand}"
    bands = [b for b in _RUPIAH_BANDS if b * 1e6 <= amount]
    low, above = bands[-1], [b for b in _RUPIAH_BANDS if b * 1e6 > amount]
    if not above:
        return f"{'di atas' if language == 'id' else 'above'} {low} {million} {per}"
    return f"{low}–{above[0]} {million} {per}"
