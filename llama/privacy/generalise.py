"""Coarser forms of values: birth date → decade, age → ten years, address → city, income → band.

A value that cannot be read is not guessed. The result is None, and the field is treated as secret.
"""

from __future__ import annotations

import bisect
import datetime as dt
import re

from llama.privacy.amounts import main_amounts_in
from llama.privacy.dates import dates_in
from llama.privacy.normalised import line_of
from llama.privacy.places import city_of
from llama.privacy.policy import Generaliser
from llama.privacy.profile import Value, text_of

# The width of each band is a quarter to the whole of its upper end; the last band is open.
_RUPIAH_BANDS = (0, 5, 10, 20, 50, 100)  # millions
_BANDS = (0, 10, 25, 50, 75, 100, 150, 200, 300, 500, 750, 1000)  # thousands
_SMALL_UNITS = frozenset(["¥", "jpy", "₩", "krw", "huf", "₫", "vnd"])  # a hundred or more of these make a dollar
_SIGN = re.compile(
    r"us\$|s\$|a\$|c\$|nz\$|hk\$|[$€£¥₹₩₫฿]|\b(?:usd|eur|gbp|sgd|aud|cad|nzd|hkd|myr|rm|jpy|krw|vnd|inr|chf|sek|nok|dkk|"
    r"thb|php|aed|sar|cny|rmb|zar|ngn|huf)\b"
)
_RUPIAH = re.compile(r"\b(?:rp|idr|rupiah)\b|\brp(?=\d)")


def generalised(value: Value, how: Generaliser, language: str) -> str | None:
    """Return the coarser form in ``en`` or ``id``, or None."""
    text = text_of(value)
    if how is Generaliser.DECADE:
        year = _year(value, text)
        return None if year is None else f"{'tahun ' if language == 'id' else ''}{year // 10 * 10}{_suffix(language)}"
    if how is Generaliser.AGE_BAND:
        age = re.fullmatch(r"(\d{1,3})\s*(?:years?(?: old)?|yrs?|yo|tahun|thn?)?\.?", text.casefold())
        if age is None or int(age[1]) > 130:
            return None
        low = int(age[1]) // 10 * 10
        return f"{low}–{low + 9} {'tahun' if language == 'id' else 'years'}"
    return city_of(text) if how is Generaliser.CITY else _income(text, language)


def _year(value: Value, text: str) -> int | None:
    if isinstance(value, dt.date):
        return value.year
    years = {year for _, _, days in dates_in(text.casefold()) for year, _, _ in days if year and year > 99}
    if not years:
        years = {int(year) for year in re.findall(r"(?<!\d)(?:1[89]|20)\d\d(?!\d)", text)}
    return years.pop() if len(years) == 1 else None


def _suffix(language: str) -> str:
    return "-an" if language == "id" else "s"


def _income(text: str, language: str) -> str | None:
    """Return the band of the one amount in a text, or None."""
    line = line_of(text)
    amounts = {amount for _, _, amount, _ in main_amounts_in(line) if amount >= 1000}
    if len(amounts) != 1:
        return None
    amount, sign = amounts.pop(), _SIGN.search(line)
    if sign is None and (amount >= 200_000 or _RUPIAH.search(line)):
        return _band(amount / 1e6, _RUPIAH_BANDS, "", ("million rupiah", "juta rupiah")[language == "id"], language)
    unit = sign[0] if sign else ""
    before = unit.upper() + (" " if unit.isalpha() else "")
    hundred = 100 if unit in _SMALL_UNITS else 1
    return _band(
        amount / 1000,
        tuple(hundred * each for each in _BANDS),
        before,
        ("thousand", "ribu")[language == "id"],
        language,
    )


def _band(amount: float, bands: tuple[int, ...], before: str, unit: str, language: str) -> str:
    """Write the band of an amount: ``$25–50 thousand``. Above the last band there is no upper end."""
    above = bisect.bisect_right(bands, amount)
    if above == len(bands):
        top, unit = (
            (bands[-1] // 1000, {"thousand": "million", "ribu": "juta"}[unit])
            if bands[-1] >= 1000
            else (bands[-1], unit)
        )
        return f"{'di atas' if language == 'id' else 'above'} {before}{top} {unit}"
    return f"{before}{bands[above - 1]}–{bands[above]} {unit}"
