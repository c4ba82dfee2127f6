"""In how many ways one value can be written, and where in a text it is written in any of them.

A value is declared by its field, so it needs no detection, only recognition: whatever the case, the Unicode form, the
punctuation, the digit groups, the country code, the order of a date, the language of its month, the scale word of an
amount. Names are also known by their parts of three letters or more.

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
from llama.privacy.words import ADDRESS_WORDS, COMMON_WORDS, HONORIFICS, LEGAL_FORMS, STREET_WORDS

LONG = 8  # letters and digits from which a form is found also in the middle of a longer word
MAX_GAP = 3  # characters between two digits of one number
PART = 3  # letters of a name's part
RUN = 6  # digits of a long number that are a secret by themselves


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


@dataclass(frozen=True, order=True)
class Found:
    """``text[start:end]`` writes ``secrets[index]``."""

    start: int
    end: int
    index: int


# --- Views of a text -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _folded(char: str) -> str:
    """Letters and digits of one character, without case, accent or width; empty for all else."""
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
    return "".join(c for c in plain if c.isalnum())


def compact(text: str) -> str:
    """Only the letters and digits, folded: ``Sari-Déwi`` → ``saridewi``."""
    return "".join(_folded(c) for c in text)


@lru_cache(maxsize=4096)
def _same_length(char: str) -> str:
    folded = unicodedata.normalize("NFKC", char).casefold()
    return folded if len(folded) == 1 else char


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

    def _digit_runs(self) -> Iterator[tuple[int, int]]:
        """Stretches ``compact[start:end]`` of digits with nothing but a few signs between them in the text."""
        for m in re.finditer(r"[0-9]+", self.compact):
            start = m.start()
            for i in range(m.start() + 1, m.end()):
                if self.at[i] - self.at[i - 1] > 1 + MAX_GAP:
                    yield start, i
                    start = i
            yield start, m.end()

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where ``compact[start:end]`` stands in the text, with the combining marks that follow."""
        first, last = self.at[start], self.at[end - 1] + 1
        while last < len(self.text) and unicodedata.combining(self.text[last]):
            last += 1
        return first, last

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
_DATES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<![\d])(?P<a>\d{4}|\d{1,2})\s?(?P<sep>[./\-–—\s])\s?(?P<b>\d{1,2})\s?(?P=sep)\s?(?P<c>\d{4}|\d{2})(?!\d)",
        rf"(?<!\d)(?P<d>\d{{1,2}})\s?(?:st|nd|rd|th)?{_SEP}(?:of\s|bulan\s)?(?P<m>{_MONTH})\b(?:{_SEP}'?(?P<y>\d{{4}}|\d{{2}})(?!\d))?",
        rf"(?<![^\W\d_])(?P<m>{_MONTH})\b{_SEP}(?P<d>\d{{1,2}})(?!\d)\s?(?:st|nd|rd|th)?(?:{_SEP}'?(?P<y>\d{{4}}|(?<=['\s,./-])\d{{2}})(?!\d))?",
        rf"(?<!\d)(?P<y>\d{{4}}){_SEP}(?P<m>{_MONTH})\b{_SEP}(?P<d>\d{{1,2}})(?!\d)",
        rf"(?<![^\W\d_])(?P<m>{_MONTH})\b{_SEP}(?P<y>\d{{4}})(?!\d)",
    )
)

Day = tuple[int | None, int, int | None]
"""Year (None: not written; below 100: as two digits), month, day (None: not written)."""


def dates_in(line: str) -> Iterator[tuple[int, int, set[Day]]]:
    """Dates in a folded line, each with all that it can mean."""
    for pattern in _DATES:
        for m in pattern.finditer(line):
            groups = m.groupdict()
            if "a" in groups:
                a, b, c = (int(groups[g]) for g in "abc")
                orders: list[Day] = [(a, b, c)] if len(groups["a"]) == 4 else [(c, b, a), (c, a, b)]
                if len(groups["a"]) <= 2 and len(groups["c"]) == 2:
                    orders.append((a, b, c))
            else:
                year, day = groups["y"], groups.get("d")
                orders = [(int(year) if year else None, _MONTH_WORDS[groups["m"]], int(day) if day else None)]
            possible = {o for o in orders if 1 <= o[1] <= 12 and (o[2] is None or 1 <= o[2] <= 31)}
            if possible:
                yield m.start(), m.end(), possible


def _same_day(day: Day, date: dt.date) -> bool:
    year, month, of_month = day
    return month == date.month and of_month in (None, date.day) and year in (None, date.year, date.year % 100)


_SCALES = {
    "ribu": 1e3, "rb": 1e3, "k": 1e3, "thousand": 1e3, "juta": 1e6, "jt": 1e6, "million": 1e6, "mio": 1e6, "mn": 1e6,
    "m": 1e6, "miliar": 1e9, "milyar": 1e9, "billion": 1e9, "bn": 1e9, "triliun": 1e12,
}  # fmt: skip
_SCALE = "|".join(sorted(_SCALES, key=len, reverse=True))
_AMOUNT = re.compile(rf"(?<![\d.,])(?P<n>\d+(?:[.,'\s]\d+)*)\s?(?P<scale>{_SCALE})?(?![^\W_])")


def amounts_in(line: str) -> Iterator[tuple[int, int, float]]:
    """Amounts in a folded line: ``15.000.000``, ``15 juta``, ``1,5jt``."""
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
        yield m.start(), m.end(), value


# --- Forms of one value ----------------------------------------------------------------------------------------------

_NEVER_SOUGHT = frozenset({"yes", "no", "ya", "tidak", "none", "n/a", "-", "true", "false"})
_CLITICS = ("nya", "ku", "mu", "lah", "kah", "pun", "s")
_BY_WORDS = frozenset({"HEALTH", "RELIGION", "ORIENTATION", "RECORD", "GENETIC", "BIOMETRIC"})


class Forms:
    """All ways to write one secret.

    Args:
        secret: the value, and what kind of value it is.
        not_secret: words that are sent anyway, such as an address's city.
        exact: only as it is written, by case too: for values that nobody declared.
    """

    def __init__(self, secret: Secret, not_secret: Sequence[str] = (), exact: bool = False) -> None:
        self.tag = secret.tag
        self.letters: set[str] = set()  # compact forms; short ones need a word's edges
        self.names: set[str] = set()  # compact forms that may take a clitic
        self.digits: set[str] = set()  # numbers, found inside longer ones too
        self.whole_numbers: set[str] = set()  # numbers found only as they are
        self.streets: list[tuple[list[str], bool]] = []  # words without the generic ones; needs a street word beside it
        self.date: dt.date | None = None
        self.amount: float | None = None
        self.exact = exact
        self._spell(secret, frozenset(compact(w) for w in not_secret))

    def _spell(self, secret: Secret, not_secret: frozenset[str]) -> None:
        value, tag = secret.value, secret.tag
        if isinstance(value, dt.date):
            return self._spell_date(value)
        text = text_of(value)
        if text.casefold() in _NEVER_SOUGHT:
            return None
        if tag == "FINANCE" or isinstance(value, (int, float)):
            amounts = [amount for _, _, amount in amounts_in("".join(map(_same_length, text)))]
            if len(amounts) == 1 and amounts[0] >= 1000:
                self.amount = amounts[0]
        if tag == "DATE":
            for _, _, days in dates_in("".join(map(_same_length, text))):
                for year, month, day in days:
                    if year and day and year > 99 and _is_date(year, month, day):
                        self._spell_date(dt.date(year, month, day))
        self._spell_digits(text, tag)
        whole = compact(text)
        if tag == "ADDRESS":
            if len(whole) >= LONG:
                self.letters.add(whole)
            return self._spell_address(text, not_secret)
        if not whole.isdigit() and (len(whole) >= PART or _unspaced(whole)):
            self.letters.add(whole)
        words = [compact(w) for w in re.findall(r"[^\W_]+", text)]
        if tag in ("NAME", "CHILD"):
            parts = [w for w in words if len(w) >= PART and not w.isdigit() and w not in HONORIFICS]
            self.names.update(parts)
            self.names.update(a + b for a, b in itertools.pairwise(words) if len(a + b) >= PART)
        elif tag == "ORG":
            core = [w for w in words if w not in LEGAL_FORMS]
            if len("".join(core)) >= PART:
                self.letters.add("".join(core))
        elif tag == "EMAIL":
            local, _, domain = text.partition("@")
            self.letters.add(compact(local) + "at" + compact(domain.replace(".", " dot ")))
            if len(compact(local)) >= 5:
                self.letters.add(compact(local))
        elif tag == "URL":
            self.letters.add(compact(re.sub(r"^(?:https?://)?(?:www\.)?", "", text.casefold())))
        elif tag in _BY_WORDS:
            self.letters.update(w for w in words if len(w) >= 5 and not w.isdigit() and w not in COMMON_WORDS)
        if tag not in ("NAME", "CHILD", "EMAIL", "URL"):
            clauses = (compact(c) for c in re.split(r"[,;.\n()]", text))
            self.letters.update(c for c in clauses if len(c) >= 6 and not c.isdigit())
        return None

    def _spell_digits(self, text: str, tag: str) -> None:
        for run in re.findall(r"[0-9](?:[^\w\n]{0,3}[0-9])*", "".join(_folded(c) or c for c in text)):
            number = re.sub(r"\D", "", run)
            if tag == "PHONE":
                number = _national(text) or number
            if len(number) >= 5:
                self.digits.add(number)
            elif len(number) == 4 and compact(text).isdigit():
                self.whole_numbers.add(number)

    def _spell_date(self, date: dt.date) -> None:
        self.date = date
        y, m, d = f"{date.year:04}", f"{date.month:02}", f"{date.day:02}"
        self.digits |= {d + m + y, y + m + d, m + d + y}
        self.whole_numbers |= {d + m + y[2:], y[2:] + m + d, m + d + y[2:]}

    def _spell_address(self, text: str, not_secret: frozenset[str]) -> None:
        for segment in re.split(r"[,;\n]", text):
            if compact(segment) in not_secret:
                continue
            words = [compact(w) for w in re.findall(r"[^\W_]+", segment)]
            core = [w for w in words if w not in ADDRESS_WORDS and w not in not_secret]
            if len("".join(words)) >= LONG and core:
                self.letters.add("".join(words))
            if any(len(w) >= PART for w in core) and len(core) > 1:
                self.streets.append((core, False))
            if names := [w for w in core if not any(c.isdigit() for c in w)]:
                self.streets.append((names, True))

    def find(self, view: TextView) -> Iterator[tuple[int, int]]:
        """Where the value is written in a text."""
        for form in self.letters:
            yield from self._find_letters(view, form, clitics=False)
        for form in self.names:
            yield from self._find_letters(view, form, clitics=True)
        yield from self._find_digits(view)
        if self.date is not None:
            for start, end, days in view.dates:
                if any(_same_day(day, self.date) for day in days):
                    yield start, end
        if self.amount is not None:
            for start, end, amount in amounts_in(view.line):
                if abs(amount - self.amount) < 0.005 * self.amount:
                    yield start, end
        for core, beside_street_word in self.streets:
            yield from _find_street(view, core, beside_street_word)

    def _find_letters(self, view: TextView, form: str, *, clitics: bool) -> Iterator[tuple[int, int]]:
        start = view.compact.find(form)
        while start >= 0:
            end = start + len(form)
            if len(form) >= LONG or _unspaced(form) or (view.is_edge(start) and _ends(view, end, clitics)):
                span = view.span(start, end)
                if not self.exact or view.text[span[0]].isupper() or not view.text[span[0]].isalpha():
                    yield span
            start = view.compact.find(form, start + 1)

    def _find_digits(self, view: TextView) -> Iterator[tuple[int, int]]:
        if not (self.digits or self.whole_numbers):
            return
        for start, end in view.runs:
            run = view.compact[start:end]
            for number in self.digits:
                at = run.find(number)
                if at >= 0:
                    first = start if self.tag == "PHONE" and at <= 4 else start + at  # 0, 62 or 0062 goes with it
                    yield view.span(first, start + at + len(number))
            if run in self.whole_numbers or any(run in number for number in self.digits if len(run) >= RUN):
                yield view.span(start, end)
        for word_start, word_end, word in view.words:  # part of a long number, among other numbers
            if word.isdigit() and (
                word in self.whole_numbers or (len(word) >= RUN and any(word in number for number in self.digits))
            ):
                yield word_start, word_end


def _ends(view: TextView, end: int, clitics: bool) -> bool:
    if view.is_edge(end):
        return True
    return clitics and any(view.compact.startswith(c, end) and view.is_edge(end + len(c)) for c in _CLITICS)


def _find_street(view: TextView, core: list[str], beside_street_word: bool) -> Iterator[tuple[int, int]]:
    words = view.address_core
    for k in range(len(words) - len(core) + 1):
        if words[k][1] != core[0] or [w for _, w in words[k : k + len(core)]] != core:
            continue
        first, last = words[k][0], words[k + len(core) - 1][0]
        if last - first > 3 * len(core):
            continue
        before = first
        while before > 0 and view.words[before - 1][2] in ADDRESS_WORDS:
            before -= 1
        after = last + 1
        beside = {w for _, _, w in view.words[before:first]} | {w for _, _, w in view.words[after : after + 1]}
        if not beside_street_word or beside & STREET_WORDS:
            yield view.words[before][0], view.words[last][1]


def _national(text: str) -> str | None:
    """A phone number without its country code or leading zero, or None."""
    try:
        number = phonenumbers.parse(text, "ID")
    except phonenumbers.NumberParseException:
        return None
    return str(number.national_number)


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        dt.date(year, month, day)
    except ValueError:
        return False
    return True


class Index:
    """Every way to write every secret; grows by :meth:`add`, never shrinks."""

    def __init__(self) -> None:
        self.secrets: list[Secret] = []
        self._forms: list[Forms] = []

    def add(self, secret: Secret, not_secret: Sequence[str] = (), *, exact: bool = False) -> int:
        """Look for this value too; its index."""
        self.secrets.append(secret)
        self._forms.append(Forms(secret, not_secret, exact))
        return len(self.secrets) - 1

    def find(self, text: str | TextView) -> list[Found]:
        """All places where a secret is written, by position; they may overlap."""
        view = TextView(text) if isinstance(text, str) else text
        return sorted({Found(start, end, i) for i, forms in enumerate(self._forms) for start, end in forms.find(view)})
