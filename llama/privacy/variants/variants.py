"""The common part of all kinds of values: the declared words, their digits, and the search for them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import unicodedata
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from itertools import chain

from llama.privacy.dates import Day, dates_in
from llama.privacy.normalised import NormalisedText, compact, folded, in_order, line_of
from llama.privacy.policy import NEVER_SOUGHT
from llama.privacy.profile import text_of
from llama.privacy.secret import Secret
from llama.privacy.variants.cores import CoreForms
from llama.privacy.variants.digits import RUN, DigitForms, Endings
from llama.privacy.variants.finders import DateForms, Finder, LabelledParts, Spans
from llama.privacy.variants.letters import LONG, LetterForms

SINGULAR = 3  # least letters of a word without its plural's ending
CODE = re.compile(r"[A-Za-z]{1,3}[ -]?\d{1,4}[ -]?[A-Za-z]{1,3}")


@dataclass(frozen=True)
class DeclaredText:
    """A declared value as text.

    Attributes:
        text: in NFC.
        raw: its words, unchanged.
        words: the same, folded.
    """

    text: str = dataclasses.field(repr=False)
    raw: tuple[str, ...] = dataclasses.field(repr=False)
    words: tuple[str, ...] = dataclasses.field(repr=False)


def declared_text(text: str) -> DeclaredText:
    """Split a text into words."""
    text = unicodedata.normalize("NFC", in_order(text))
    raw = tuple(re.findall(r"[^\W_]+", text))
    return DeclaredText(text, raw, tuple(map(compact, raw)))


@dataclass(frozen=True)
class Options:
    """Options of the search for a value.

    Attributes:
        not_secret: words that are sent anyway, such as an address's city.
        exact: match only this spelling, including case; for found values, which no profile declares.
        today: the date from which ages are counted.
    """

    not_secret: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    exact: bool = False
    today: dt.date = dataclasses.field(default_factory=dt.date.today)


class Variants:
    """All ways to write one value, and the search for them in a text.

    A kind of value is a subclass. Its :meth:`spell` adds the forms to search for.

    Attributes:
        finders: of the value itself.
        derived: finders of parts of the value, each with the kind of its tag. Such a tag stands for the written text.
    """

    short_numbers = False  # also search for numbers of four digits
    phone = False

    def __init__(self, secret: Secret, options: Options) -> None:
        self.secret, self.options = secret, options
        self.letters = LetterForms(exact=options.exact, brackets=secret.tag == "EMAIL")
        self.digits = DigitForms(phone=self.phone)
        self.dates = DateForms()
        self.endings = Endings()
        self.finders: list[Finder] = [self.letters, self.digits, self.dates]
        self.derived: list[tuple[str, Finder]] = []
        if isinstance(secret.value, dt.date):
            self.spell_day((secret.value.year, secret.value.month, secret.value.day))
        elif text_of(secret.value).casefold() not in NEVER_SOUGHT:
            self.spell(declared_text(text_of(secret.value)))
        if self.dates.days and not options.exact:
            self.derived.append((secret.tag, LabelledParts(self.dates.days)))
        if self.endings.numbers and not options.exact:
            self.derived.append((secret.tag, self.endings))

    def spell(self, value: DeclaredText) -> None:
        """Add the forms to search for: by default all of the value, its clauses, and its numbers."""
        self.spell_numbers(value.text)
        self.letters.add(value.words)
        if value.words and (one := singular(value.words[-1])):
            self.letters.add([*value.words[:-1], one])
        self.spell_clauses(value.text)

    def find(self, text: NormalisedText) -> Spans:
        """Yield each stretch ``text[start:end]`` that writes the value."""
        return chain.from_iterable(finder.find(text) for finder in self.finders)

    def leave_out(self, known: set[Hashable]) -> None:
        """Drop the words that are ``known``, and add the rest to it."""
        for finder in self.finders:
            if isinstance(finder, LetterForms | CoreForms):
                finder.leave_out(known)

    def anchors(self) -> Collection[str] | None:
        """Return the anchors of all finders."""
        anchors = [finder.anchors() for finder in self.finders]
        return None if None in anchors else set().union(*filter(None, anchors))

    def spell_clauses(self, text: str) -> None:
        """Add each part between commas or full stops by itself."""
        for clause in re.split(r"[,;.\n()]", text):
            if len(compact(clause)) >= 6:
                self.letters.add(declared_text(clause).words)

    def spell_numbers(self, text: str) -> None:
        """Add each number in the value, by itself, and the ends of a long one."""
        for number in numbers_in(text):
            if not CODE.fullmatch(text.strip()):  # the digits of a number plate are no number
                self.spell_number(number)

    def spell_number(self, number: str) -> None:
        """Add a number."""
        if len(number) >= 5 or (len(number) == 4 and self.short_numbers):
            self.digits.numbers.add(number)
        if len(number) >= LONG:
            self.digits.parted.add(number)
        if len(number) >= RUN:
            self.endings.numbers.add(number)

    def spell_day(self, day: Day) -> None:
        """Add a day, also as a run of digits, as in a password."""
        self.dates.days.add(day)
        y, m, d = day
        if y is None or d is None or not _is_date(y, m, d):
            return
        year, month, of_month = f"{y:04}", f"{m:02}", f"{d:02}"
        if y > 99:
            self.digits.numbers |= {of_month + month + year, year + month + of_month, month + of_month + year}
        short = year[2:]
        self.digits.numbers |= {of_month + month + short, short + month + of_month, month + of_month + short}

    def spell_dates(self, text: str) -> None:
        """Add each day in the value."""
        for _, _, days in dates_in(line_of(text)):
            for day in days:
                if day[2]:
                    self.spell_day(day)


class WholeVariants(Variants):
    """A list that is written as one text: only all of it, since its items are separate secrets."""

    def spell(self, value: DeclaredText) -> None:
        """Add all its words, one after another."""
        self.letters.add(value.words)


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        dt.date(year, month, day)
    except ValueError:
        return False
    return True


def singular(word: str) -> str:
    """Return an English word without its plural's ending, or nothing: *peanuts*, *allergies*, *illnesses*."""
    for plural, one in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("s", "")):
        if word.endswith(plural) and not word.endswith("ss") and len(word) - len(plural) + len(one) >= SINGULAR:
            return word.removesuffix(plural) + one
    return ""


def numbers_in(text: str) -> list[str]:
    """Return the digits of each number in a text; a few signs may group them."""
    plain = plain_digits(text)
    return [re.sub(r"\D", "", m[0]) for m in re.finditer(r"\+?[0-9](?:[^\w\n]{0,3}[0-9])*", plain)]


def plain_digits(text: str) -> str:
    """Fold letters and digits, and keep all other signs."""
    return "".join(folded(c) or c for c in text)
