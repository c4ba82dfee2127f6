"""The gate's search terms: the secret values of a profile, as letters, digits and days.

A second check is useful only if it fails in other ways than the first. So this module shares nothing with the sanitiser
but the profile, the policy, and the lists of common words.

Knows nothing about: texts, tags, sheets.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

from llama.privacy.policy import NEVER_SOUGHT, FieldPolicy, field_of
from llama.privacy.profile import Profile, Value, text_of
from llama.privacy.word_lists import common_words, known_words, places
from llama.privacy.words import CITIES_ID, COMMON_WORDS, PROVINCES_ID
from llama.text.dates import MONTHS

SURE = 8  # letters or digits that are enough without word boundaries around them
SHORTEST = 3  # least letters; the least digits are 5, or 4 where a field holds a number
MAX_PARTS = 6  # parts of a name of which any two may be run together

_TITLES = frozenset(
    [
        "pak",
        "bapak",
        "ibu",
        "mrs",
        "prof",
        "drs",
        "haji",
        "hajah",
        "bin",
        "binti",
        "van",
        "von",
        "der",
        "den",
        "the",
        "and",
        "dan",
    ]
)
_LEGAL = frozenset(["pt", "cv", "ud", "tbk", "inc", "ltd", "llc", "plc", "corp", "gmbh"])
_BY_WORDS = frozenset({"HEALTH", "RELIGION", "ORIENTATION", "RECORD", "GENETIC", "BIOMETRIC"})
_IN_STREETS = frozenset(
    ["jl", "jln", "jalan", "gg", "gang", "street", "st", "road", "rd", "avenue", "ave", "lane", "ln", "drive", "dr"]
)


class PlainTable(dict[int, str]):
    """A table for ``str.translate``: letters without case and accents, digits as ASCII, no marks and format signs."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if char.isdecimal():
            plain = str(unicodedata.decimal(char))
        elif unicodedata.category(char) in ("Cf", "Mn", "Me"):
            plain = ""
        else:
            spread = unicodedata.normalize("NFKD", char.casefold()).casefold()
            plain = "".join(_SPELLED.get(c, c) for c in spread if c.isalnum())
            if not char.isalnum() and len(plain) != 1:  # ⓐ is a letter, ™ a sign
                plain = char
        self[code] = plain
        return plain


_SPELLED = {"œ": "oe", "æ": "ae", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
PLAIN = PlainTable()
WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """Return the words of a text in plain form."""
    return WORD.findall(text.translate(PLAIN))


@dataclass(frozen=True)
class Letters:
    """Words of a secret, run together.

    Attributes:
        field: the field of the secret.
        form: letters and digits only.
        joints: positions where its words meet.
        together: a match must not have a space between two of the words.
        is_amount: only the whole amount counts.
    """

    field: str
    form: str = dataclasses.field(repr=False)
    joints: frozenset[int] = dataclasses.field(repr=False)
    together: bool = False
    is_amount: bool = False


@dataclass(frozen=True)
class Digits:
    """A number of a secret.

    Attributes:
        field: the field of the secret.
        form: its digits.
        is_amount: only the whole amount counts, as a separate number.
        has_parts: a long part of it counts as the whole.
        is_phone: a part may begin with a zero or a country code.
    """

    field: str
    form: str = dataclasses.field(repr=False)
    is_amount: bool = False
    has_parts: bool = True
    is_phone: bool = False


@dataclass(frozen=True)
class Date:
    """A day of a secret."""

    field: str
    year: int = dataclasses.field(repr=False)
    month: int = dataclasses.field(repr=False)
    day: int = dataclasses.field(repr=False)


Clue = Letters | Digits | Date


def clues_of(profile: Profile) -> list[Clue]:
    """Return all that a text must not contain: every value of a field that is not open, and its parts."""
    clues = dict[Clue, None]()
    for each in profile.fields.values():
        if each.policy is not FieldPolicy.OPEN:
            for value in each.values:
                clues.update(dict.fromkeys(_clues(each.name, field_of(each.name).tag, value)))
    return list(clues)


def _clues(field: str, tag: str, value: Value) -> Iterator[Clue]:
    text = text_of(value)
    if text.casefold() in NEVER_SOUGHT:
        return
    for date in [value] if isinstance(value, dt.date) else _dates_of(text) if tag in ("DATE", "PRIVATE") else []:
        yield Date(field, date.year, date.month, date.day)
        y, m, d = f"{date.year:04}", f"{date.month:02}", f"{date.day:02}"
        for form in (d + m + y, y + m + d, m + d + y):
            yield Digits(field, form, has_parts=False)
    if isinstance(value, dt.date):
        return
    yield from _numbers(field, tag, text)
    for phrase in _phrases(tag, text):
        letters = "".join(phrase)
        if len(letters) >= SHORTEST and not letters.isdigit():
            joints, at = set[int](), 0
            for word in phrase[:-1]:
                at += len(word)
                joints.add(at)
            joints |= {i for i in range(1, len(letters)) if letters[i - 1].isdigit() != letters[i].isdigit()}
            everybodys = all(len(word) < 5 or word in known_words() or _is_common(word) for word in phrase)
            yield Letters(field, letters, frozenset(joints), tag == "URL" and everybodys, _is_money(tag, text))


def _phrases(tag: str, text: str) -> Iterator[list[str]]:
    """Yield the words of a value, and of each part of it that is a secret on its own."""
    words = words_of(text)
    if tag == "ADDRESS":
        lines = [words_of(line) for line in re.split(r"[,;\n]", text)]
        streets = [line for i, line in enumerate(lines) if line and _is_street(line, is_first=i == 0)]
        yield from (line for line in [words, *streets] if len(lines) > 1 and len("".join(line)) >= SURE)
        return
    yield words
    if tag in ("NAME", "CHILD"):
        yield from (phrase for name in _ONE_NAME.split(text) for phrase in _names(name))
    elif tag == "PRIVATE" and _is_like_a_name(WORD.findall(text)):
        yield from (phrase for phrase in _names(text) if not any(map(_is_common, phrase)))
    elif tag in _BY_WORDS:
        yield from ([word] for word in words if not _is_common(word))
    elif tag == "ORG":
        yield [word for word in words if word not in _LEGAL]
    elif tag == "URL":
        yield words_of(re.sub(r"^(?:https?://)?(?:www\.)?", "", text.casefold()))


def _is_street(line: Sequence[str], *, is_first: bool) -> bool:
    """Return whether a line of an address is more than a town: St Albans is a town, High St a street."""
    if not any(map(str.isdigit, "".join(line))) and " ".join(line) in _TOWNS | places():
        return False
    return is_first or bool(_IN_STREETS.intersection(line[1:] if line[0] == "st" else line))


_TOWNS = frozenset((*CITIES_ID, *PROVINCES_ID))
_ONE_NAME = re.compile(r"[,;&]|\b(?:and|dan)\b")


def _names(text: str) -> Iterator[list[str]]:
    """Yield each part of a name, O'Brien as one and as two, and any two parts, which may be run together."""
    words = [word for word in dict.fromkeys(words_of(text)) if word not in _TITLES]
    yield from ([word] for word in words)
    yield from (parts for part in text.split() if len(parts := words_of(part)) > 1)
    yield from map(list, permutations([word for word in words if len(word) >= SHORTEST][:MAX_PARTS], 2))


def _is_like_a_name(words: Sequence[str]) -> bool:
    return 2 <= len(words) <= 4 and all(word.isalpha() and word[0].isupper() for word in words)


def _is_common(word: str) -> bool:
    return word in COMMON_WORDS or word in common_words()


def _is_money(tag: str, text: str) -> bool:
    currency = re.search(r"[$€£¥]|\b(?:rp|idr|usd|eur|gbp|sgd)\b", text.translate(PLAIN))
    return tag == "FINANCE" or (tag == "PRIVATE" and currency is not None)


def _numbers(field: str, tag: str, text: str) -> Iterator[Digits]:
    plain = text.translate(PLAIN)
    money = _is_money(tag, text)
    if re.fullmatch(r"[a-z]{1,3}[ -]?[0-9]{1,4}[ -]?[a-z]{1,3}", plain.strip()):
        return  # the digits of a number plate are not a number
    for m in re.finditer(r"[0-9](?:[.,'’ ]?[0-9])*" if money else r"[0-9](?:[^\w\n]{0,3}[0-9])*", plain):
        digits = re.sub(r"[^0-9]", "", m[0])
        if money:
            digits = re.sub(r"[^0-9]", "", re.sub(r"[.,]0{1,2}$", "", m[0]))  # drop the cents if they are zero
            if len(digits) >= 4:
                yield Digits(field, digits, is_amount=True, has_parts=False)
            continue
        if tag == "PHONE":
            digits = re.sub(r"^(?:00)?(?:62)?0?(?=[0-9]{7})", "", digits)
        least = 4 if tag in ("ID", "PRIVATE", "ACCOUNT", "CARD") else 6 if tag == "EMAIL" else 5
        if len(digits) >= least:
            yield Digits(field, digits, is_phone=tag == "PHONE")


MONTH_OF = {
    short: number
    for names in MONTHS.values()
    for number, name in enumerate(names, start=1)
    for short in (name.casefold(), name[:3].casefold())
}


def _dates_of(text: str) -> Iterator[dt.date]:
    """Yield the dates of a date declared as text, in every reading of its three parts."""
    plain = text.translate(PLAIN)
    for m in re.finditer(r"(?<![0-9])([0-9]{1,4})\s?([./–—\s-])\s?([0-9]{1,2})\s?\2\s?([0-9]{1,4})(?![0-9])", plain):
        a, b, c = m[1], m[3], m[4]
        yield from _date(a, b, c) if len(a) == 4 else (*_date(c, b, a), *_date(c, a, b))
    parts = re.findall(r"[0-9]+|[^\W\d_]+", plain)
    for a, b, c in zip(parts, parts[1:], parts[2:], strict=False):
        if a in MONTH_OF and b.isdigit() and c.isdigit():  # April 12 1991
            yield from _date(c, str(MONTH_OF[a]), b)
        elif b in MONTH_OF and a.isdigit() and c.isdigit():  # 12 April 1991
            yield from _date(c, str(MONTH_OF[b]), a)


def _date(year: str, month: str, day: str) -> Iterator[dt.date]:
    if len(year) in (2, 4) and len(month) <= 2 and len(day) <= 2:
        try:
            yield dt.date(int(year) + (0 if len(year) == 4 else 1900 if int(year) > 30 else 2000), int(month), int(day))
        except ValueError:
            return
