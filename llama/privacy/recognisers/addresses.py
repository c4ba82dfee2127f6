"""Addresses, Indonesian, American and British, as far as rules can find them; and postcodes by themselves."""

from __future__ import annotations

import re
from collections.abc import Callable

from llama.privacy.places import POSTCODE_UK
from llama.privacy.recognisers.recogniser import PatternRecogniser, Recogniser, without_trailing
from llama.privacy.words import CITIES_ID, PROVINCES_ID, STREET_TYPES_EN

_CITY, _PROVINCE = "|".join(CITIES_ID), "|".join(PROVINCES_ID)
CITIES = re.compile(rf"(?<!\w)(?:(?:kota|kabupaten|kab\.)\s)?(?:{_CITY})(?!\w)", re.IGNORECASE)

# Indonesian: a street word, up to five more words, then parts that only addresses have, or places after a comma.
_PART_ID = (
    r"blok|blk|no|nomor|nmr|rt/rw|rt|rw|kel|kelurahan|kec|kecamatan|desa|dusun|ds|dsn|kab|kabupaten|kota|prov|provinsi|"
    r"lt|lantai|unit|gg|gang|perum|perumahan|komplek|kompleks|kavling|kav|km|kode pos|lorong|residence|cluster|tower|"
    r"lot"
)
_STOP_ID = (
    r"no|nomor|blok|rt|rw|dan|atau|untuk|yang|ya|di|dekat|sebelah|kota|kel|kec|kab|hp|telp|saya|aku|itu|ini|dengan|jam|"
    r"setelah|sebelum|mau|besok|tolong|agar|supaya|wa|depan|belakang|samping|sudah|kalau|karena|tapi|adalah|bisa|ada|"
    r"tgl|tanggal|email|nama|nik|a\.?n|titip"
)
_GOES_ON = rf"(?!(?:{_STOP_ID})\b)"
_CAPITALISED_ID = r"(?-i:[A-Z])[\w'.-]*"
_TAIL_ID = (
    rf"(?:[\s,]*(?:(?:{_PART_ID})\b\.?[\s:]*[\w./-]+(?:\s{_GOES_ON}(?:[a-z]+(?=\s?(?:,|\d{{5}}))|"
    r"(?-i:[A-Z])[a-z]+(?=\s?(?:\.|\n|$)))){0,2}"
    rf"|\d{{1,4}}[a-z]?(?![\w.])|\d{{2,3}}/\d{{2,3}}|(?:{_CITY})\b|(?:{_PROVINCE})\b|(?-i:[A-Z]{{2}}\s)?\d{{5}}\b)"
    rf"|,\s?{_GOES_ON}{_CAPITALISED_ID}(?:\s{_GOES_ON}{_CAPITALISED_ID}){{0,3}}"
    rf"|,\s?{_GOES_ON}[a-z]+(?:\s{_GOES_ON}[a-z]+){{0,2}}(?=,\s?(?:{_CITY}|{_PROVINCE})\b|\s\d{{5}}\b))*"
)
_STREET_ID = re.compile(
    r"(?<!\w)(?:jl|jln|gg|jalan|gang|komplek|kompleks|komp|perum|perumahan|dusun|kampung|kp|ruko|apartemen|apt|rusun|"
    r"gedung|cluster|griya)\b\.?\s+"
    rf"(?:[a-z][\w.'/-]*|\d{{1,3}})(?:\s{_GOES_ON}[a-z][\w.'-]*){{0,4}}{_TAIL_ID}",
    re.IGNORECASE,
)
_RT_RW = re.compile(rf"(?<!\w)rt\.?\s?\d{{1,3}}\s?/?\s?(?:rw\.?\s?)?\d{{1,3}}{_TAIL_ID}", re.IGNORECASE)

# English: a number, one to four capitalised words, a kind of street; then flat, town, state or postcode.
_WORDS_EN = r"(?:(?:[A-Z][\w'.-]*|\d{1,3}(?:st|nd|rd|th))\s){1,4}"
_STREET_TYPE = rf"(?i:{'|'.join(STREET_TYPES_EN)})\b\.?"
_STATE = (
    r"A[KLRZSAEP]|C[AOT]|D[CE]|F[LM]|G[AU]|HI|I[ADLN]|K[SY]|LA|M[ADEHINOPST]|N[CDEHJMVY]|O[HKR]|P[ARW]|RI|S[CD]|T[NX]|"
    r"UT|V[AIT]|W[AIVY]"
)
_ZIP = r"\d{5}(?:-\d{4})?(?!\d)"
_TAIL_EN = (
    r"(?:,?\s(?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|Fl|Room|#)\.?\s?#?[\w-]+)?"
    rf"(?:,\s?(?:(?!(?:{_STATE})\s\d|{POSTCODE_UK})(?:[A-Z][\w'.-]*|upon|on|in|under|by|le|de|la)\s?){{1,4}}){{0,3}}"
    rf"(?:,?\s?(?:{_STATE})\s{_ZIP}|,?\s{_ZIP}|,?\s?{POSTCODE_UK})?"
)
_STREET_EN = re.compile(
    r"(?:(?<!\w)(?:The\s)?[A-Z]\w+(?:\s[A-Z]\w+)?,\s)?"
    r"(?<![\w.])\d{1,5}[A-Za-z]?(?:-\d+)?,?\s(?:(?:[NSEW]\.?|North|South|East|West)\s)?"
    rf"(?:{_WORDS_EN}{_STREET_TYPE}|Broadway\b){_TAIL_EN}"
)
_FLAT_EN = re.compile(
    r"(?<!\w)(?:Flat|Apt\.?|Apartment|Suite|Unit|Studio)\s\d+[A-Za-z]?,?\s"
    rf"(?:\d+\s)?{_WORDS_EN}{_STREET_TYPE}{_TAIL_EN}"
)
_MILITARY = re.compile(
    r"(?<!\w)(?:PSC \d+,? Box \d+|Unit \d+,? Box \d+|US[NC][SGV]?[A-Z]* [A-Z]\w+),?\s[AFD]PO A[AEP] \d{5}",
    re.IGNORECASE,
)
_PO_BOX = re.compile(rf"(?<!\w)P\.?\s?O\.?\s?Box\s\d+{_TAIL_EN}")
_POSTCODE = re.compile(rf"(?<!\w)(?:{POSTCODE_UK}|(?:{_STATE})\s{_ZIP})(?!\w)")


def _is_no_walk(street: str) -> bool:
    """Return whether this is a street: *jalan* is also "to walk".

    Before a small letter, *jalan* is a street only with a number.
    """
    return not street.partition(" ")[2][:1].islower() or any(c.isdigit() for c in street)


def _address(pattern: re.Pattern[str], *validators: Callable[[str], bool]) -> PatternRecogniser:
    return PatternRecogniser("ADDRESS", pattern, narrow=without_trailing(" ,."), validators=validators)


RECOGNISERS: tuple[Recogniser, ...] = (
    _address(_STREET_ID, _is_no_walk),
    _address(_RT_RW),
    _address(_STREET_EN),
    _address(_FLAT_EN),
    _address(_MILITARY),
    _address(_PO_BOX),
    _address(_POSTCODE),
)
