"""A value made coarser: birth date → decade, age → ten years, address → city, income → band.

What cannot be read is not guessed: the answer is None, and the field is treated as secret.
"""

from __future__ import annotations

import datetime as dt
import re

from llama.privacy.amounts import amounts_in
from llama.privacy.dates import dates_in
from llama.privacy.places import POSTCODE_UK
from llama.privacy.policy import Generaliser
from llama.privacy.profile import Value, text_of
from llama.privacy.recognisers.addresses import CITIES
from llama.privacy.words import ADDRESS_WORDS

_RUPIAH_BANDS = (0, 5, 10, 20, 50, 100)  # millions


def generalised(value: Value, how: Generaliser, language: str) -> str | None:
    """The coarser form in ``en`` or ``id``, or None."""
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
    if how is Generaliser.CITY:
        return city_of(text)
    amounts = [amount for _, _, amount, _ in amounts_in(text.casefold()) if amount >= 1000]
    sign = re.search(r"[$€£¥]|\b(?:usd|eur|gbp|sgd)\b", text.casefold())
    return _band(amounts[0], language, sign[0].upper() if sign else "") if len(amounts) == 1 else None


def city_of(address: str) -> str | None:
    """The city in an address: a known one between commas, or what stands where a postcode says that a city does."""
    parts = [part.strip() for part in re.split(r"[,;\n]", address) if part.strip()]
    for i in range(len(parts) - 1, 0, -1):
        known = re.fullmatch(rf"({CITIES.pattern})(?:\s\d{{5}})?", parts[i], re.IGNORECASE)
        if known:
            return known[1]
        before_code = re.fullmatch(rf"(.*?)\s?(?:{_POSTCODE})", parts[i])
        if before_code:
            words = before_code[1].strip() or (parts[i - 1] if i > 1 else "")
            if re.fullmatch(r"[A-Z][A-Za-z'. -]{1,40}", words) and not _is_a_street(words):
                return words
    return None


# A British postcode, or an American state and zip code.
_POSTCODE = rf"{POSTCODE_UK}|[A-Z]{{2}}\s\d{{5}}(?:-\d{{4}})?"


def _is_a_street(words: str) -> bool:
    return any(word in ADDRESS_WORDS for word in re.findall(r"[a-z]+", words.casefold())[1:])


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
