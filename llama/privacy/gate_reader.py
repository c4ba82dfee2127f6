"""The gate's own reading: what of a profile is secret, and whether a text says it in its own letters or digits.

A second reading is worth something only if it fails otherwise than the first. So nothing here is shared with the
sanitiser but the profile, the policy, and the list of words that tell nothing. It is simpler than the sanitiser: it
knows a value's letters, its digits in any grouping, and a day as day, month and year; it knows no typing errors, no
short forms and no words for noughts.

Knows nothing about: tags but that a NUL stands for one, sheets, tokens.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations

from llama.privacy.policy import NEVER_SOUGHT, FieldPolicy, field_of
from llama.privacy.profile import MONTHS, Profile, Value, text_of
from llama.privacy.word_lists import common_words, known_words
from llama.privacy.words import COMMON_WORDS

TAG = "\0"  # stands for a tag in a text that is read: nothing reaches across it
SURE = 8  # letters or digits that need no edges of words around them
SHORTEST = 3  # letters; digits: 5, or 4 where a field holds a number
PART_OF_NUMBER = 6  # digits of a longer number
NEARLY_ALL = 0.75  # of a value, at a text's end, that is as good as all of it if it is ENOUGH
ENOUGH = 6
MAX_GAP = 5
MAX_PARTS = 6  # of a name, of which any two may be run together

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
_ENDINGS = ("nya", "ku", "mu", "lah", "kah", "pun", "s", "nyalah", "nyakah", "nyapun")
_BY_WORDS = frozenset({"HEALTH", "RELIGION", "ORIENTATION", "RECORD", "GENETIC", "BIOMETRIC"})
_IN_STREETS = frozenset(
    ["jl", "jln", "jalan", "gg", "gang", "street", "st", "road", "rd", "avenue", "ave", "lane", "ln", "drive", "dr"]
)
_THOUSANDS = frozenset(".,'’")
_OPENING = frozenset('()[]{}<>"“”' + TAG)


class _Plain(dict[int, str]):
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
_PLAIN = _Plain()
_WORD = re.compile(r"[^\W_]+")
_DIGITS = re.compile(r"[0-9]+")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.translate(_PLAIN))


# ---- what is looked for


@dataclass(frozen=True)
class Letters:
    """Words of a secret, run together.

    Attributes:
        field: whose.
        form: letters and digits only.
        joints: where its words meet.
        together: not where a space parts two of them.
        is_amount: nothing but all of it counts.
    """

    field: str
    form: str
    joints: frozenset[int]
    together: bool = False
    is_amount: bool = False


@dataclass(frozen=True)
class Digits:
    """A number of a secret.

    Attributes:
        field: whose.
        form: its digits.
        is_amount: nothing but all of it counts, by itself.
        has_parts: a long part of it is as good as all.
        is_phone: a part may begin with a zero or a country code.
    """

    field: str
    form: str
    is_amount: bool = False
    has_parts: bool = True
    is_phone: bool = False


@dataclass(frozen=True)
class Date:
    """A day of a secret."""

    field: str
    year: int
    month: int
    day: int


Clue = Letters | Digits | Date


def clues_of(profile: Profile) -> list[Clue]:
    """Give all that must not be read in a text: every value of a field that is not open, and its parts."""
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
    """Give the words of a value, and of each part of it that is a secret by itself."""
    words = _words(text)
    if tag == "ADDRESS":
        lines = [_words(line) for line in re.split(r"[,;\n]", text)]
        streets = [line for i, line in enumerate(lines) if i == 0 or _IN_STREETS.intersection(line)]
        yield from (line for line in [words, *streets] if len(lines) > 1 and len("".join(line)) >= SURE)
        return
    yield words
    if tag in ("NAME", "CHILD"):
        yield from (phrase for name in _ONE_NAME.split(text) for phrase in _names(name))
    elif tag == "PRIVATE" and _is_like_a_name(_WORD.findall(text)):
        yield from (phrase for phrase in _names(text) if not any(map(_is_common, phrase)))
    elif tag in _BY_WORDS:
        yield from ([word] for word in words if not _is_common(word))
    elif tag == "ORG":
        yield [word for word in words if word not in _LEGAL]
    elif tag == "URL":
        yield _words(re.sub(r"^(?:https?://)?(?:www\.)?", "", text.casefold()))


_ONE_NAME = re.compile(r"[,;&]|\b(?:and|dan)\b")


def _names(text: str) -> Iterator[list[str]]:
    """Give each part of a name, O'Brien as one and as two, and any two of them, which may be run together."""
    words = [word for word in dict.fromkeys(_words(text)) if word not in _TITLES]
    yield from ([word] for word in words)
    yield from (parts for part in text.split() if len(parts := _words(part)) > 1)
    yield from map(list, permutations([word for word in words if len(word) >= SHORTEST][:MAX_PARTS], 2))


def _is_like_a_name(words: Sequence[str]) -> bool:
    return 2 <= len(words) <= 4 and all(word.isalpha() and word[0].isupper() for word in words)


def _is_common(word: str) -> bool:
    return word in COMMON_WORDS or word in common_words()


def _is_money(tag: str, text: str) -> bool:
    currency = re.search(r"[$€£¥]|\b(?:rp|idr|usd|eur|gbp|sgd)\b", text.translate(_PLAIN))
    return tag == "FINANCE" or (tag == "PRIVATE" and currency is not None)


def _numbers(field: str, tag: str, text: str) -> Iterator[Digits]:
    plain = text.translate(_PLAIN)
    money = _is_money(tag, text)
    if re.fullmatch(r"[a-z]{1,3}[ -]?[0-9]{1,4}[ -]?[a-z]{1,3}", plain.strip()):
        return  # a number plate's digits are no number
    for m in re.finditer(r"[0-9](?:[^\w\n]{0,3}[0-9])*", plain):
        digits = re.sub(r"[^0-9]", "", m[0])
        if money:
            digits = re.sub(r"[^0-9]", "", re.sub(r"[.,]0{1,2}$", "", m[0]))  # without cents, if there are none
            if len(digits) >= 4:
                yield Digits(field, digits, is_amount=True, has_parts=False)
            continue
        if tag == "PHONE":
            digits = re.sub(r"^(?:00)?(?:62)?0?(?=[0-9]{7})", "", digits)
        least = 4 if tag in ("ID", "PRIVATE", "ACCOUNT", "CARD") else 6 if tag == "EMAIL" else 5
        if len(digits) >= least:
            yield Digits(field, digits, is_phone=tag == "PHONE")


_MONTH_OF = {
    short: number
    for names in MONTHS.values()
    for number, name in enumerate(names, start=1)
    for short in (name.casefold(), name[:3].casefold())
}


def _dates_of(text: str) -> Iterator[dt.date]:
    """Read a date that is declared as text: all that three parts of it may mean."""
    parts = re.findall(r"[0-9]+|[^\W\d_]+", text.translate(_PLAIN))
    for a, b, c in zip(parts, parts[1:], parts[2:], strict=False):
        if a in _MONTH_OF and b.isdigit() and c.isdigit():  # April 12 1991
            yield from _date(c, str(_MONTH_OF[a]), b)
        elif b in _MONTH_OF and a.isdigit() and c.isdigit():  # 12 April 1991
            yield from _date(c, str(_MONTH_OF[b]), a)
        elif a.isdigit() and b.isdigit() and c.isdigit():
            yield from _date(a, b, c) if len(a) == 4 else (*_date(c, b, a), *_date(c, a, b))


def _date(year: str, month: str, day: str) -> Iterator[dt.date]:
    if len(year) in (2, 4) and len(month) <= 2 and len(day) <= 2:
        try:
            yield dt.date(int(year) + (0 if len(year) == 4 else 1900 if int(year) > 30 else 2000), int(month), int(day))
        except ValueError:
            return


# ---- where it is looked for


class ReadText:
    """A text as the gate reads it: its letters and digits run together, and its numbers.

    Attributes:
        characters: how many were read.
    """

    def __init__(self, text: str) -> None:
        self.characters = len(text)
        self._plain = text.translate(_PLAIN)
        spans = [m.span() for m in _WORD.finditer(self._plain)]
        self._solid = "".join(self._plain[a:b] for a, b in spans)
        self._gap: dict[int, str] = {}  # by where in the solid text it stands
        at = 0
        for (a, b), (c, _) in pairwise(spans):
            at += b - a
            self._gap[at] = self._plain[b:c]
        self._runs = list(self._digit_runs())
        self._single = [m[0] for m in _DIGITS.finditer(self._solid_words(spans)) if len(m[0]) >= PART_OF_NUMBER]
        self._tokens = [(m[0], m.start(), m.end()) for m in re.finditer(r"[0-9]+|[^\W\d_]+", self._plain)]

    def _solid_words(self, spans: Sequence[tuple[int, int]]) -> str:
        return " ".join(self._plain[a:b] for a, b in spans)

    def _digit_runs(self) -> Iterator[tuple[int, int]]:
        """Give stretches of the solid text that are digits with few signs between them."""
        for m in _DIGITS.finditer(self._solid):
            start = m.start()
            for i in range(m.start() + 1, m.end()):
                gap = self._gap.get(i, "")
                if TAG in gap or "\n\n" in gap or len(gap) > 8 or len("".join(gap.split())) > 3:
                    yield start, i
                    start = i
            yield start, m.end()

    def says(self, clue: Clue) -> Iterator[tuple[int, int]]:
        """Give each stretch of the solid text that says what is looked for."""
        if isinstance(clue, Letters):
            yield from self._letters(clue)
        elif isinstance(clue, Digits):
            yield from self._digits(clue)
        else:
            yield from self._date(clue)

    def ends_with_most_of(self, clue: Clue) -> bool:
        """Tell whether the text begins or ends with so much of a value that other words could complete it."""
        if isinstance(clue, Date) or clue.is_amount:
            return False  # 500.000 is three quarters of 5.000.000, and a price of its own
        form = clue.form
        least = max(ENOUGH, math.ceil(NEARLY_ALL * len(form)))
        for length in range(least, len(form)):
            at = len(self._solid) - length
            if (
                self._solid.endswith(form[:length])
                and self._is_edge(at)
                and self._goes_on(at, len(self._solid), 0, clue)
            ):
                return True
            first = len(form) - length
            if (
                self._solid.startswith(form[-length:])
                and self._is_edge(length)
                and self._goes_on(0, length, first, clue)
            ):
                return True
        return False

    @staticmethod
    def count(text: str) -> int:
        """Count the letters and digits of a text."""
        return sum(map(len, _words(text)))

    def _is_edge(self, i: int) -> bool:
        if i in (0, len(self._solid)) or i in self._gap:
            return True
        return self._solid[i - 1].isdigit() != self._solid[i].isdigit()

    def _goes_on(self, start: int, end: int, first: int, clue: Letters | Digits) -> bool:
        """Tell whether a stretch is the value from its letter ``first`` on, with spaces where the value has them."""
        spaces = {i - start + first for i, gap in self._gaps(start, end).items() if _parts_words(gap)}
        return self._is_close(start, end, clue) and (isinstance(clue, Digits) or spaces <= clue.joints)

    def _gaps(self, start: int, end: int) -> dict[int, str]:
        return {i: self._gap[i] for i in range(start + 1, end) if i in self._gap}

    def _is_close(self, start: int, end: int, clue: Letters | Digits) -> bool:
        """Tell whether nothing but few signs stands between the letters or digits."""
        mail = isinstance(clue, Letters) and field_of(clue.field).tag == "EMAIL"
        return not any(
            len(gap) > MAX_GAP
            or TAG in gap
            or (not mail and not _OPENING.isdisjoint(gap) and isinstance(clue, Letters))
            for gap in self._gaps(start, end).values()
        )

    def _letters(self, clue: Letters) -> Iterator[tuple[int, int]]:
        start = self._solid.find(clue.form)
        while start >= 0:
            end = start + len(clue.form)
            if self._is_close(start, end, clue) and self._are_words(start, end, clue):
                yield start, end
            start = self._solid.find(clue.form, start + 1)

    def _are_words(self, start: int, end: int, clue: Letters) -> bool:
        """Tell whether letters are words by themselves, and neither inside another nor across two others."""
        spaces = {i - start for i, gap in self._gaps(start, end).items() if _parts_words(gap)}
        unspaced = any(c >= "\u0e00" for c in clue.form)
        if unspaced or (len(clue.form) >= SURE and not spaces):
            return True
        if spaces and clue.together:
            return False
        is_spelled_out = len(spaces) == len(clue.form) - 1
        if len(clue.form) < SURE and not is_spelled_out and not spaces <= clue.joints:
            return False
        return self._is_edge(start) and (
            self._is_edge(end) or any(self._solid.startswith(e, end) and self._is_edge(end + len(e)) for e in _ENDINGS)
        )

    def _digits(self, clue: Digits) -> Iterator[tuple[int, int]]:
        form = clue.form
        for start, end in self._runs:
            run = self._solid[start:end]
            at = run.find(form)
            while at >= 0:
                first, last = start + at, start + at + len(form)
                if clue.is_amount or len(form) < SURE:
                    if self._is_one_number(first, last, clue.is_amount):
                        yield first, last
                else:
                    yield first, last
                at = run.find(form, at + 1)
            part = re.sub(r"^(?:0|62)", "", run) if clue.is_phone else run
            if clue.has_parts and len(form) >= SURE and len(part) >= PART_OF_NUMBER and part in form:
                yield start, end
        if clue.has_parts and len(form) >= SURE and any(single in form for single in self._single):
            yield 0, 0

    def _is_one_number(self, first: int, last: int, is_amount: bool) -> bool:
        gaps = self._gaps(first, last)
        if any(len(gap) > 1 or (is_amount and "\n" in gap) for gap in gaps.values()):
            return False
        joined = is_amount and any(
            self._gap.get(i) in gaps.values() and self._parts_thousands(i) for i in (first, last)
        )
        return not joined and self._is_edge(first) and self._is_edge(last)

    def _parts_thousands(self, i: int) -> bool:
        """Tell whether a sign stands in one number, as in 1.250.000, and not between two, as in 17,1250000."""
        before, after = self._groups(i - 4, i), self._groups(i, i + 4)
        is_one = re.search(r"(?<![0-9])[0-9]{1,3}$", before) and re.match(r" [0-9]{3}(?![0-9])", after)
        return self._gap[i] in _THOUSANDS and is_one is not None

    def _groups(self, start: int, end: int) -> str:
        """Give a stretch of the solid text with one space for each gap."""
        places = range(max(0, start), min(end, len(self._solid)))
        return "".join(" " * (i in self._gap) + self._solid[i] for i in places)

    def _date(self, clue: Date) -> Iterator[tuple[int, int]]:
        years = (f"{clue.year:04}", f"{clue.year % 100:02}")
        days, months = {str(clue.day), f"{clue.day:02}"}, {str(clue.month), f"{clue.month:02}"}
        names = {word for word, number in _MONTH_OF.items() if number == clue.month}
        for a, b in pairwise(self._tokens):
            is_both = (a[0] in days and b[0] in names) or (a[0] in names and b[0] in days)
            if is_both and re.fullmatch(r"[\s.,/–—-]{0,3}", self._plain[a[2] : b[1]]):
                yield 0, 0
        for a, b, c in zip(self._tokens, self._tokens[1:], self._tokens[2:], strict=False):
            orders = ((a[0], b[0], c[0]), (b[0], a[0], c[0]), (c[0], b[0], a[0]))
            if any(d in days and m in months and y in years for d, m, y in orders) and all(
                _BETWEEN.fullmatch(self._plain[x[2] : y[1]]) for x, y in ((a, b), (b, c))
            ):
                yield 0, 0


_BETWEEN = re.compile(r"[^\S\n]?(?:[^\w\n:\0]|_)[^\S\n]?|[^\S\n]{1,2}")


def _parts_words(gap: str) -> bool:
    """Tell whether a gap parts two words; a hyphen at a line's end goes on with one."""
    return any(c.isspace() for c in gap) and not re.fullmatch(r"[-‐‑]\s*\n\s*", gap)


def read_in(text: str, clues: Iterable[Clue]) -> str | None:
    """Name the field of the first secret that a text says, or None."""
    read = ReadText(text)
    return next((clue.field for clue in clues if next(read.says(clue), None) is not None), None)
