"""Towns in addresses: find the town of an address, if it is certain.

Knows nothing about: values, tags, sheets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llama.privacy.normalised import folded
from llama.privacy.word_lists import places
from llama.privacy.words import ADDRESS_WORDS, BODY_WORDS, CITIES_ID, NAMES, PROVINCES_ID, STREET_KINDS

POSTCODE_UK = r"[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2}"

_STATES = (
    r"(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|P[AR]|RI|S[CD]|T[NX]|UT|V[AIT]|"
    r"W[AIVY])"
)
_CODES = (
    rf"(?:{POSTCODE_UK}|{_STATES}\s\d{{5}}(?:-\d{{4}})?|(?:NSW|VIC|QLD|WA|SA|TAS|ACT|NT)\s\d{{4}}"
    r"|(?:[A-Z]{2}\s)?[A-Z]\d[A-Z]\s?\d[A-Z]\d|\d{4,6})"
)
_CODE_LAST = re.compile(rf"(?<!\w)(?:{_CODES})\Z")
_CODE_FIRST = re.compile(r"(?P<code>\d{5,6}|\d{4}\s?[A-Z]{2})\s(?P<town>\D+)")
_CODE_ALONE_ID = re.compile(r"\d{5}")
_COUNTRIES = frozenset(
    """
    indonesia|united kingdom|uk|u k|great britain|england|scotland|wales|northern ireland|usa|us|u s a|united states|
    united states of america|australia|canada|ireland|singapore|malaysia|new zealand
    """.replace("\n", "")
    .replace("    ", "")
    .split("|")
)
_KABUPATEN = re.compile(
    r"(?:kota(?: administrasi)?|kabupaten|kab\.?)\s+(?P<name>[^\W\d]+(?:[\s-][^\W\d]+){0,2})", re.IGNORECASE
)
_NO_TOWN = (
    ADDRESS_WORDS - {"kota", "kabupaten", "kab"}
    | BODY_WORDS
    | NAMES
    | frozenset().union(*STREET_KINDS)
    | frozenset(
        [
            "c",
            "o",
            "care",
            "of",
            "attn",
            "po",
            "box",
            "flat",
            "room",
            "house",
            "farm",
            "inn",
            "pub",
            "school",
            "church",
            "mosque",
            "masjid",
            "gereja",
        ]
    )
)
_CITIES_ID, _PROVINCES_ID = frozenset(CITIES_ID), frozenset(PROVINCES_ID)


def city_of(address: str) -> str | None:
    """Return the town of an address, as it is written there, or None.

    Known towns are recognised: Indonesian ones between commas, those of other countries where a post code marks a town.
    An unknown town is the text directly before a post code in the same part, unless one of its words belongs to a
    house, a street, a body or a person.
    """
    parts = [part.strip() for part in re.split(r"[,;\n]", address) if part.strip()]
    ends = list(_ends(parts))
    for part, _ in ends:
        if known := _of_indonesia(part):
            return known
    coded = next((i for i, (_, code) in enumerate(ends) if code), None)
    if coded is None:
        return None
    for town, _ in ends[coded : coded + 3]:
        if _plain(town) in places():
            return town
    return ends[coded][0] if _may_be_a_town(ends[coded][0]) else None


def _ends(parts: list[str]) -> Iterator[tuple[str, bool]]:
    """Yield the parts from the last to the second, each without its post code, and whether it had one."""
    for part in reversed(parts[1:]):
        if _plain(part) in _COUNTRIES and len(parts) > 2:
            continue
        if (last := _CODE_LAST.search(part)) is not None:
            yield part[: last.start()].strip(" .-"), True
        else:
            m = _CODE_FIRST.fullmatch(part)
            yield (part, False) if m is None else (m["town"].strip(" .-"), True)


def _of_indonesia(part: str) -> str | None:
    """Return the Indonesian city in a part of an address that contains nothing else, or None."""
    plain = _plain(part)
    if plain in _CITIES_ID:
        return part
    m = _KABUPATEN.fullmatch(part)
    return part if m is not None and not _NO_TOWN.intersection(_plain(m["name"]).split()) else None


def _may_be_a_town(words: str) -> bool:
    return re.fullmatch(r"[A-Z][A-Za-zÀ-ÿ'’.-]*(?:[\s-][A-Za-zÀ-ÿ'’.-]+){0,3}", words) is not None and not (
        _NO_TOWN.intersection(_plain(words).split())
    )


def is_place(text: str) -> bool:
    """Return whether a text is the name of a known town or city, and nothing else."""
    plain = _plain(text)
    return plain in places() or plain in _CITIES_ID


def _plain(text: str) -> str:
    return " ".join("".join(folded(c) or " " for c in text).split())
