"""In how many ways one value can be written, and where in a text it is written in any of them.

A value is declared by its field, so it needs no detection, only recognition: whatever the case, the Unicode form, the
punctuation and the digit groups. The field also says what kind of value it is, and so in which other ways it is
written: names by their parts, phones with and without country code, dates in any order and either language's months,
amounts with words for their noughts, addresses with and without the generic words, mail with its signs in words,
diagnoses and creeds by each word that tells something. An unknown field is taken for what it looks like: a name, a
date, an amount.

Too short to be found in a text, and so not looked for: values of one or two letters, or of one to three digits.

Knows nothing about: tags, sheets, which text is whose.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import phonenumbers

from llama.privacy.profile import MONTHS, Value, text_of
from llama.privacy.words import (
    ADDRESS_WORDS,
    COMMON_WORDS,
    COMPANY_WORDS,
    HONORIFICS,
    LEGAL_FORMS,
    PARTICLES,
    STREET_WORDS,
)

LONG = 8  # letters and digits from which a form is found also in the middle of a longer word
MAX_GAP = 3  # signs between two digits of one number, white space not counted
MAX_SPACES = 8
PART = 3  # letters of a name's part
RUN = 6  # digits of a long number that are a secret by themselves

POSTCODE_UK = r"[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2}"


@dataclass(frozen=True)
class Secret:
    """A value that must not leave. It does not print.

    Attributes:
        field: where it is from: a profile's field, or what a pattern calls it.
        tag: the kind of its tag.
        value: as it was declared.
    """

    field: str
    tag: str
    value: Value = dataclasses.field(repr=False)
    derived: bool = False  # a part of the value that reads like a name; its tag stands for what is written


@dataclass(frozen=True, order=True)
class Found:
    """``text[start:end]`` writes ``secrets[index]``."""

    start: int
    end: int
    index: int


# --- Views of a text -------------------------------------------------------------------------------------------------


_LIGATURES = str.maketrans({"œ": "oe", "æ": "ae", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"})


@lru_cache(maxsize=4096)
def _folded(char: str) -> str:
    """Letters and digits of one character, without case, accent or width; empty for all else."""
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold()).translate(_LIGATURES)
    return "".join(c for c in plain if c.isalnum())


def compact(text: str) -> str:
    """Only the letters and digits, folded: ``Sari-Déwi`` → ``saridewi``."""
    return "".join(_folded(c) for c in text)


@lru_cache(maxsize=4096)
def _same_length(char: str) -> str:
    folded = unicodedata.normalize("NFKC", char).casefold()
    return folded if len(folded) == 1 else char


def national(digits: str) -> str:
    """A phone number's digits without Indonesia's country code or the leading zero."""
    return re.sub(r"^(?:00)?(?:62)?0?(?=\d{7})", "", digits)


class TextView:
    """A text, and the forms of it in which values are looked for; positions are the text's own."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.line = "".join(map(_same_length, text))  # folded, a character for a character
        chars, at = list[str](), list[int]()
        for i, char in enumerate(text):
            for folded in _folded(char):
                chars.append(folded)
                at.append(i)
        self.compact, self.at = "".join(chars), at
        self.words = [(m.start(), m.end(), compact(m[0])) for m in re.finditer(r"[^\W_]+", text)]
        self.runs = list(self._digit_runs())
        self.address_core = [(i, word) for i, (_, _, word) in enumerate(self.words) if word not in ADDRESS_WORDS]
        self.dates = list(dates_in(self.line))
        self.amounts = list(amounts_in(self.line))
        self._all_dates: list[tuple[int, int, set[Day]]] | None = None

    def _digit_runs(self) -> Iterator[tuple[int, int]]:
        """Stretches ``compact[start:end]`` of digits with nothing but a few signs between them in the text."""
        for m in re.finditer(r"[0-9]+", self.compact):
            start = m.start()
            for i in range(m.start() + 1, m.end()):
                gap = self.gap(i)
                signs = len("".join(gap.split()))
                if "\n\n" in gap or len(gap) > MAX_SPACES or signs > MAX_GAP:
                    yield start, i
                    start = i
            yield start, m.end()

    def gap(self, i: int) -> str:
        """What stands in the text between ``compact[i-1]`` and ``compact[i]``."""
        return self.text[self.at[i - 1] + 1 : self.at[i]]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where ``compact[start:end]`` stands in the text, with the combining marks that follow."""
        first, last = self.at[start], self.at[end - 1] + 1
        while last < len(self.text) and unicodedata.combining(self.text[last]):
            last += 1
        return first, last

    @property
    def all_dates(self) -> list[tuple[int, int, set[Day]]]:
        """Dates, those included that only who knows the date would take for one."""
        if self._all_dates is None:
            self._all_dates = [*self.dates, *dates_in(self.line, _RARE_DATES)]
        return self._all_dates

    def is_edge(self, i: int) -> bool:
        """Whether a word or number begins or ends between ``compact[i-1]`` and ``compact[i]``."""
        if i in (0, len(self.compact)):
            return True
        before, after = self.compact[i - 1], self.compact[i]
        return self.at[i] - self.at[i - 1] > 1 or before.isdigit() != after.isdigit() or _unspaced(before + after)


def _unspaced(text: str) -> bool:
    """Scripts that put no space between words (Thai and beyond)."""
    return any(c >= "\u0e00" for c in text)


# --- Dates and amounts in a text -------------------------------------------------------------------------------------

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
_DATES = tuple(
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
_RARE_DATES = tuple(
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


def dates_in(line: str, patterns: Sequence[re.Pattern[str]] = _DATES) -> Iterator[tuple[int, int, set[Day]]]:
    """Dates in a folded line, each with all that it can mean; they may overlap."""
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


def _same_day(day: Day, own: Day) -> bool:
    (year, month, of_month), (own_year, own_month, own_day) = day, own
    years = (
        None in (year, own_year)
        or year == own_year
        or ((year or 0) % 100 == (own_year or 0) % 100 and ((year or 0) < 100 or (own_year or 0) < 100))
    )
    return month == own_month and of_month in (None, own_day) and years


_SCALES = {
    "ribu": 1e3, "rb": 1e3, "k": 1e3, "thousand": 1e3, "juta": 1e6, "jt": 1e6, "million": 1e6, "mio": 1e6, "mn": 1e6,
    "m": 1e6, "miliar": 1e9, "milyar": 1e9, "billion": 1e9, "bn": 1e9, "triliun": 1e12,
}  # fmt: skip
_SCALE = "|".join(sorted(_SCALES, key=len, reverse=True))
_AMOUNT = re.compile(rf"(?<!\d)(?<!\d[.,])(?P<n>\d+(?:[.,'\s]\d+)*)\s?(?P<scale>{_SCALE})?(?:an)?(?![^\W_])")


def amounts_in(line: str) -> Iterator[tuple[int, int, float, bool]]:
    """Amounts in a folded line, and whether a word scales them: ``15.000.000``, ``15 juta``, ``1,5jt``."""
    for m in _AMOUNT.finditer(line):
        number, scale = m["n"], _SCALES.get(m["scale"] or "", 1.0)
        groups = re.split(r"[.,'\s]", number)
        if len(groups) > 1 and all(len(g) == 3 for g in groups[1:]):
            value = float("".join(groups)) * scale
        elif len(groups) > 2 and len(groups[-1]) < 3 and all(len(g) == 3 for g in groups[1:-1]):
            value = float("".join(groups[:-1]) + "." + groups[-1]) * scale
        elif len(groups) == 2:
            value = float(".".join(groups)) * scale
        else:
            value = float(groups[0]) * scale
        yield m.start(), m.end(), value, m["scale"] is not None


# --- Forms of one value ----------------------------------------------------------------------------------------------

_NEVER_SOUGHT = frozenset(
    {"yes", "no", "ya", "tidak", "none", "n/a", "-", "true", "false", "tidak ada", "nihil", "not applicable", "nothing"}
)
_CLITICS = ("nya", "ku", "mu", "lah", "kah", "pun", "s")
_BY_WORDS = frozenset({"HEALTH", "RELIGION", "ORIENTATION", "RECORD", "GENETIC", "BIOMETRIC"})
_PHONE_PREFIX = re.compile(r"(?:(?:00)?62)?0?\Z|(?:00)?[1-9]\d{0,2}\Z")
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})
_POSTCODE = re.compile(rf"(?<!\w){POSTCODE_UK}(?!\w)", re.IGNORECASE)
_CURRENCY = re.compile(r"\b(?:rp|idr|usd|eur|gbp|sgd)\b|[$€£]")
_BRACKETS = frozenset('()[]{}<>"“”')
_LETTER_GAP = 5  # signs between two letters of one word


class Forms:
    """All ways to write one secret.

    Args:
        secret: the value, and what kind of value it is.
        not_secret: words that are sent anyway, such as an address's city.
        exact: only as it is written, by case too: for values that nobody declared.
        only_whole: not by its parts, which are secrets of their own.
    """

    def __init__(
        self, secret: Secret, not_secret: Sequence[str] = (), exact: bool = False, only_whole: bool = False
    ) -> None:
        self.tag = secret.tag
        self.letters: dict[str, frozenset[int]] = {}  # compact forms; where their words meet
        self.numbers: set[str] = set()  # digits; long ones are found inside longer numbers too
        self.whole: set[str] = set()  # digits that are an amount, and found only by themselves
        self.parted: set[str] = set()  # long numbers of which a part is secret by itself
        self.streets: list[tuple[list[str], bool]] = []  # words without the generic ones; needs a street word beside it
        self.dates: set[Day] = set()
        self.amounts: set[float] = set()
        self.exact = exact
        if isinstance(secret.value, dt.date):
            self._spell_date(secret.value.year, secret.value.month, secret.value.day)
        else:
            text = unicodedata.normalize("NFC", text_of(secret.value))
            if only_whole:
                self._add([compact(w) for w in re.findall(r"[^\W_]+", text)])
            elif text.casefold() not in _NEVER_SOUGHT:
                self._spell(text, secret, frozenset(compact(w) for w in not_secret))

    def _spell(self, text: str, secret: Secret, not_secret: frozenset[str]) -> None:
        tag, line = secret.tag, "".join(map(_same_length, text))
        if tag in ("FINANCE", "PRIVATE"):
            for _, _, amount, scaled in amounts_in(line):
                if amount >= 1000 and (scaled or tag == "FINANCE" or _CURRENCY.search(line)):
                    self.amounts.add(amount)
            if isinstance(secret.value, (int, float)) and secret.value > 2100:  # no year
                self.amounts.add(float(secret.value))
        if tag in ("DATE", "PRIVATE"):
            for _, _, days in dates_in(line):
                for year, month, day in days:
                    if day:
                        self._spell_date(year, month, day)
        self._spell_numbers(text, exactly=bool(self.amounts))
        written = re.findall(r"[^\W_]+", text)
        words = [compact(w) for w in written]
        if tag == "ADDRESS":
            if len("".join(words)) >= LONG:
                self._add(words)
            self._spell_address(text, not_secret)
            return
        self._add(words)
        if tag in ("NAME", "CHILD"):
            self._spell_name(text, words, written)
        elif tag == "PRIVATE" and 2 <= len(written) <= 4 and all(w.isalpha() and w[0].isupper() for w in written):
            self._spell_name(text, words, written)  # an unknown field that looks like somebody's name
        elif tag == "ORG":
            core = [w for w in words if w not in LEGAL_FORMS]
            self._add(core)
            if core and len(core[0]) >= 5 and core[0] not in COMPANY_WORDS:
                self._add(core[:1])
            if len(core) > 2 and len("".join(core[:2])) >= LONG:
                self._add(core[:2])
        elif tag == "EMAIL":
            self._spell_email(text)
        elif tag == "URL":
            address = re.sub(r"^(?:https?://)?(?:www\.)?", "", text.casefold()).rstrip("/")
            for part in {address, address.rpartition("/")[2]}:
                self._add([compact(part)])
        elif tag in _BY_WORDS:
            for word in words:
                if word not in COMMON_WORDS:
                    self._add([word])
        if tag not in ("NAME", "CHILD", "EMAIL", "URL"):
            for clause in re.split(r"[,;.\n()]", text):
                if len(compact(clause)) >= 6:
                    self._add([compact(w) for w in re.findall(r"[^\W_]+", clause)])

    def _add(self, words: Sequence[str]) -> None:
        """A form of one or more words, unless it is too short to be looked for or no words at all."""
        form = "".join(words)
        if form and not form.isdigit() and (len(form) >= PART or _unspaced(form)):
            meet = frozenset(itertools.accumulate(len(w) for w in words[:-1]))
            meet |= {i for i in range(1, len(form)) if form[i - 1].isdigit() != form[i].isdigit()}
            self.letters[form] = self.letters.get(form, frozenset()) | meet

    def _spell_numbers(self, text: str, *, exactly: bool) -> None:
        plain = "".join(_folded(c) or c for c in text)
        for m in re.finditer(r"\+?[0-9](?:[^\w\n]{0,3}[0-9])*", plain):
            number = re.sub(r"\D", "", m[0])
            if self.tag == "PHONE":
                number = national(number)
            if exactly and len(number) >= 4:
                self.whole.add(number)
            elif len(number) >= 5 or (len(number) == 4 and self.tag in ("ID", "PRIVATE", "ACCOUNT", "CARD")):
                self.numbers.add(number)
            if len(number) >= LONG and not exactly:
                self.parted.add(number)
        if self.tag == "PHONE":
            for match in phonenumbers.PhoneNumberMatcher(plain, "ID", phonenumbers.Leniency.POSSIBLE):
                self.numbers.add(str(match.number.national_number))
                self.parted.add(str(match.number.national_number))

    def _spell_name(self, text: str, words: list[str], written: list[str]) -> None:
        raw = dict(zip(words, written, strict=True))
        whole = dict.fromkeys([*words, *map(compact, text.split())])
        parts = [word for word in whole if not self._is_no_name(word, raw.get(word, ""))]
        for word in parts:
            self._add([word])
        for pair in itertools.permutations([w for w in parts if len(w) >= 2][:6], 2):
            self._add(pair)
        for word in re.findall(r"\w*[äöüÄÖÜ]\w*", text):  # Müller is also written Mueller
            self._add([compact(word.casefold().translate(_UMLAUTS))])

    def _is_no_name(self, word: str, written: str) -> bool:
        unknown = self.tag == "PRIVATE" and word in COMMON_WORDS
        return unknown or word in HONORIFICS or (word in PARTICLES and written.islower())

    def _spell_date(self, year: int | None, month: int, day: int) -> None:
        self.dates.add((year, month, day))
        if year is None or not _is_date(year, month, day):
            return
        y, m, d = f"{year:04}", f"{month:02}", f"{day:02}"
        if year > 99:
            self.numbers |= {d + m + y, y + m + d, m + d + y}
        self.numbers |= {d + m + y[2:], y[2:] + m + d, m + d + y[2:]}

    def _spell_email(self, text: str) -> None:
        local, _, domain = text.partition("@")
        locals_ = {compact(local), compact(local.replace(".", " dot "))}
        domains = {compact(domain), compact(domain.replace(".", " dot "))}
        for parts in itertools.product(locals_, ("", "at"), domains):
            self._add(["".join(parts)])

    def _spell_address(self, text: str, not_secret: frozenset[str]) -> None:
        for segment in re.split(r"[,;\n]", text):
            if compact(segment) in not_secret:
                continue
            words = [compact(w) for w in re.findall(r"[^\W_]+", segment)]
            for postcode in _POSTCODE.findall(segment):
                self._add([compact(postcode)])
            core = [w for w in words if w not in ADDRESS_WORDS and w not in not_secret]
            if len("".join(words)) >= LONG and core:
                self._add(words)
            if any(len(w) >= PART for w in core) and len(core) > 1:
                self.streets.append((core, False))
            if names := [w for w in core if not any(c.isdigit() for c in w)]:
                self.streets.append((names, len(names) == 1))

    def find(self, view: TextView) -> Iterator[tuple[int, int]]:
        """Where the value is written in a text."""
        for form, meet in self.letters.items():
            yield from self._find_letters(view, form, meet)
        if self.numbers or self.whole:
            yield from self._find_numbers(view)
        if self.dates:
            for start, end, days in view.all_dates:
                if any(_same_day(day, own) for day in days for own in self.dates):
                    yield start, end
        if self.amounts:
            for start, end, amount, scaled in view.amounts:
                if amount in self.amounts or (scaled and any(abs(amount - own) < 0.01 * own for own in self.amounts)):
                    yield start, end
        for core, beside_street_word in self.streets:
            yield from _find_street(view, core, beside_street_word)

    def _find_letters(self, view: TextView, form: str, meet: frozenset[int]) -> Iterator[tuple[int, int]]:
        start = view.compact.find(form)
        while start >= 0:
            end = start + len(form)
            if _is_whole(view, start, end, meet, brackets=self.tag == "EMAIL"):
                span = view.span(start, end)
                if not self.exact or view.text[span[0]].isupper() or not view.text[span[0]].isalpha():
                    yield span
            start = view.compact.find(form, start + 1)

    def _find_numbers(self, view: TextView) -> Iterator[tuple[int, int]]:
        here = [number for number in self.numbers if number in view.compact]
        for start, end in view.runs:
            if view.compact[start:end] in self.whole:
                yield view.span(start, end)
            if not here and end - start < RUN:
                continue
            run = view.compact[start:end]
            for number in here:
                at = run.find(number)
                while at >= 0:
                    first, last = start + at, start + at + len(number)
                    # A short number is one only by itself: 40162 is not in 1.401.620.
                    if len(number) >= LONG or _is_one_number(view, first, last):
                        if self.tag == "PHONE" and (prefix := _PHONE_PREFIX.search(run[:at])):
                            first -= len(prefix[0])
                        yield view.span(first, last)
                    at = run.find(number, at + 1)
            part = re.sub(r"^(?:0|62)", "", run) if self.tag == "PHONE" else run
            if len(part) >= RUN and any(part in number for number in self.parted):
                yield view.span(start, end)
        if self.parted:
            for first, last, word in view.words:  # a part of a long number, among other numbers
                if len(word) >= RUN and word.isdigit() and any(word in number for number in self.parted):
                    yield first, last


def _is_one_number(view: TextView, first: int, last: int) -> bool:
    """Whether the digits ``compact[first:last]`` stand together, with other signs or letters around them."""
    together = all(len(view.gap(i)) <= 1 for i in range(first + 1, last))
    return together and view.is_edge(first) and view.is_edge(last)


def _is_whole(view: TextView, start: int, end: int, meet: frozenset[int], *, brackets: bool) -> bool:
    """Whether ``compact[start:end]`` is a word or words by itself: not of the middle of another, nor of two others."""
    form = view.compact[start:end]
    gaps = [view.gap(i) for i in range(start + 1, end)]
    if any(len(gap) > _LETTER_GAP or not (brackets or _BRACKETS.isdisjoint(gap)) for gap in gaps):
        return False
    spaces = [i for i, gap in enumerate(gaps, start=1) if any(c.isspace() for c in gap)]
    if _unspaced(form) or (len(form) >= LONG and not spaces):
        return True
    spelled_out = len(spaces) == len(gaps)
    if len(form) < LONG and not spelled_out and not meet.issuperset(spaces):  # Isa is not in "is a", but in "i s a"
        return False
    return view.is_edge(start) and (
        view.is_edge(end) or any(view.compact.startswith(c, end) and view.is_edge(end + len(c)) for c in _CLITICS)
    )


def _find_street(view: TextView, core: list[str], beside_street_word: bool) -> Iterator[tuple[int, int]]:
    words = view.address_core
    for k in range(len(words) - len(core) + 1):
        if words[k][1] != core[0] or [w for _, w in words[k : k + len(core)]] != core:
            continue
        first, last = words[k][0], words[k + len(core) - 1][0]
        if last - first > 3 * len(core):
            continue
        if "\0" in view.text[view.words[first][0] : view.words[last][1]]:  # the gate's sign for a tag
            continue
        before = first
        while before > 0 and view.words[before - 1][2] in ADDRESS_WORDS:
            before -= 1
        beside = {w for _, _, w in view.words[before:first]} | {w for _, _, w in view.words[last + 1 : last + 2]}
        if not beside_street_word or beside & STREET_WORDS:
            after = last
            while after + 1 < len(view.words) and _belongs_to_a_street(view, after + 1):
                after += 1
            yield view.words[before][0], view.words[after][1]


def _belongs_to_a_street(view: TextView, i: int) -> bool:
    """Whether word i goes on with the street before it: a kind of street, a house number, a letter of one."""
    start, _, word = view.words[i]
    _, end, before = view.words[i - 1]
    is_letter = len(word) == 1 and before.isdigit()
    return start - end <= 2 and (word in ADDRESS_WORDS or bool(re.fullmatch(r"\d{1,4}[a-z]?", word)) or is_letter)


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        dt.date(year, month, day)
    except ValueError:
        return False
    return True


class Index:
    """Every way to write every secret; grows by :meth:`add`, never shrinks.

    A mail address's local part is a secret of its own: it often is the person's name, and should have a name's tag.
    """

    def __init__(self) -> None:
        self.secrets: list[Secret] = []
        self._forms: list[tuple[int, Forms]] = []

    def add(
        self, secret: Secret, not_secret: Sequence[str] = (), *, exact: bool = False, only_whole: bool = False,
        sought: bool = True,
    ) -> int:  # fmt: skip
        """Look for this value too; its index."""
        index = len(self.secrets)
        self.secrets.append(secret)
        if sought:
            self._forms.append((index, Forms(secret, not_secret, exact, only_whole)))
        if secret.tag == "EMAIL" and not exact:
            local = re.sub(r"[\W_]+", " ", text_of(secret.value).partition("@")[0]).strip()
            if len(compact(local)) >= 5:
                derived = Secret(secret.field, "NAME", local, derived=True)
                self.secrets.append(derived)
                self._forms.append((index + 1, Forms(Secret(secret.field, "PRIVATE", local))))
        return index

    def find(self, text: str | TextView) -> list[Found]:
        """All places where a secret is written, by position; they may overlap."""
        view = TextView(text) if isinstance(text, str) else text
        return sorted({Found(start, end, i) for i, forms in self._forms for start, end in forms.find(view)})
