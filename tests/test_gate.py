"""The gate is a second reading: what a broken sanitiser lets through in a value's own letters or digits, it refuses.

The sanitiser's parts are switched off in turn. An oracle of this file's own tells whether a declared value still stands
in what would leave, in its own letters or digits; wherever it does, the gate must refuse. Values in other words (a
month's name, *14,25 juta*, a letter wrong) are the sanitiser's work alone: the share of them that the gate refuses is
printed. SOAK=1 draws ten times as much.

Left out is what is too short or too common to be sought: answers that say nothing (``NEVER_SOUGHT``), values of one or
two letters or of one to three digits, amounts below 1,000, parts of names of fewer than four letters, titles, and the
digits of a number plate by themselves.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import pytest

from llama.chat import ChatFormat, Llama3Format, Message
from llama.errors import PrivacyRefused
from llama.privacy import gate
from llama.privacy.merging import Passage
from llama.privacy.normalised import NormalisedText
from llama.privacy.policy import NEVER_SOUGHT, FieldPolicy, field_of
from llama.privacy.preparing import prepare
from llama.privacy.profile import profile_from, text_of
from llama.privacy.sanitiser import CleanText, Sanitiser, Substitute
from llama.privacy.secret_index import SecretIndex
from llama.privacy.variants import KINDS, Variants, WholeVariants
from llama.privacy.variants.cores import CoreForms
from llama.privacy.variants.digits import DigitForms, Endings
from llama.privacy.variants.finders import Ages, AmountForms, BirthYears, DateForms
from llama.privacy.variants.letters import Initials, LetterForms, ShortNames, TypingErrors
from llama.prompt import OwnWords, SourcedPrompt
from llama.sheets import Sheet
from llama.tokenizer import Tokenizer
from tests import everyday
from tests.canaries import MONTHS_EN, MONTHS_ID, SENTENCES, digits_of, person, words_of
from tests.test_repository import PRODUCT, belongs_to, imports_of, module_of
from tests.test_variants import ORDINARY
from tests.volumes import SOAK

EVERYDAY, INVENTED = (50, 10) if SOAK else (5, 1)  # people: of tests.everyday; of tests.canaries, of each language
FORMS = 2  # of a value: so many in its own letters or digits, and so many in other words
PROMPTS = 5000 if SOAK else 400
CONTEXT = 8192

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def chat(tokenizer: Tokenizer) -> ChatFormat:
    return Llama3Format(tokenizer)


# ---- the wall between the two readings


def test_the_gates_reading_shares_no_code_with_the_sanitiser() -> None:
    """A fault in what both used would blind both; the gate itself only knows what the sanitiser's texts are called."""
    of_the_sanitiser = tuple(
        f"llama.privacy.{name}"
        for name in ("sanitiser", "normalised", "secret_index", "variants", "recognisers", "dates", "amounts", "spoken",
                     "generalise", "places")
    )  # fmt: skip
    files = {module_of(file): file for file in PRODUCT}
    assert all(any(belongs_to(module, (each,)) for module in files) for each in of_the_sanitiser)

    def reached(module: str, seen: set[str]) -> set[str]:
        for name in itertools.accumulate(module.split("."), "{}.{}".format):
            if name in files and name not in seen:
                seen.add(name)
                for imported in imports_of(files[name]):
                    reached(imported, seen)
        return seen

    by_the_reader = reached("llama.privacy.gate_reader", set())
    assert {"llama.privacy.policy", "llama.privacy.profile", "llama.toml"} <= by_the_reader  # the walk follows imports
    assert not [module for module in by_the_reader if belongs_to(module, (*of_the_sanitiser, "llama.text.money"))]
    by_the_gate = set(imports_of(files["llama.privacy.gate"])) & files.keys()
    assert {module for module in by_the_gate if module.startswith("llama.privacy.")} <= {
        "llama.privacy.gate_clues", "llama.privacy.gate_reader", "llama.privacy.merging", "llama.privacy.sanitiser",
    }  # fmt: skip


# ---- how a value is written in its own letters or digits

LONG = 8  # letters or digits that are known also in the middle of others
TITLES = frozenset({"bapak", "binti", "haji", "hajah", "prof"})
CLITICS = ("nya", "ku", "mu", "lah", "kah", "pun")
SIGNS = (" ", "  ", "-", "_", ".", ", ", "/", "\n", " - ", "•")
CURRENCY = r"(?:Rp\.?|IDR|USD|EUR|GBP|SGD|AUD|RM|[A-Z]{0,2}\$|[€£¥₦₹₪])"
PLATE = r"[A-Za-z]{1,3}[ -]?\d{1,4}[ -]?[A-Za-z]{1,3}"
Ways = Iterator[tuple[str, str]]


def solid_of(text: str) -> str:
    return words_of(text).replace(" ", "")


def declared(value: Any) -> str:
    return value.isoformat() if isinstance(value, dt.date) else str(value)


def is_sought(value: Any) -> bool:
    text, solid = declared(value), solid_of(declared(value))
    return text.casefold() not in NEVER_SOUGHT and len(solid) >= (4 if solid.isdigit() else 3)


def is_amount(name: str, text: str) -> bool:
    """Tell whether a value is money in figures, without a word for its noughts."""
    in_figures = re.fullmatch(rf"{CURRENCY}? ?\d[\d.,]*(?:,-)?", text, re.IGNORECASE)
    return in_figures is not None and (field_of(name).tag == "FINANCE" or re.match(CURRENCY, text) is not None)


def without_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if c.isascii() and c.isalnum() else c for c in text)


def circled(text: str) -> str:
    return "".join(chr(ord(c) - ord("a") + 0x24D0) if c in "abcdefghijklmnopqrstuvwxyz" else c for c in text.lower())


def grouped(digits: str, draw: random.Random) -> str:
    """Groups of two to five digits, the same sign between all; the last one may be shorter."""
    groups = list[str]()
    while digits:
        size = draw.randint(2, 5)
        groups.append(digits[:size])
        digits = digits[size:]
    return draw.choice(" .-").join(groups)


def of_letters(text: str, draw: random.Random) -> Ways:
    words = re.findall(r"[^\W_]+", text)
    yield from (("as declared", text), ("in capitals", text.upper()), ("in lower case", text.lower()))
    yield from (("without accents", without_accents(text)), ("in full width", full_width(text)))
    yield from (("in circles", circled(text)), ("run together", "".join(words)))
    yield "with dots between its letters", ".".join("".join(words))
    if len(words) > 1:
        yield from (("with other signs between its words", sign.join(words)) for sign in draw.sample(SIGNS, 2))
    if len("".join(words)) >= LONG:
        yield "glued to its neighbours", f"untuk{''.join(words)}yang"
    if not re.fullmatch(PLATE, text):
        for number in re.findall(r"\d(?:[^\w\n]{0,3}\d)*", text):
            if len(digits := re.sub(r"\D", "", number)) >= 5:
                yield from (("by its number", digits), ("by its number in other groups", grouped(digits, draw)))


def of_digits(text: str, draw: random.Random) -> Ways:
    digits = re.sub(r"\D", "", text)
    yield from (("as declared", text), ("run together", digits), ("in full width", full_width(digits)))
    yield from (("in other groups", grouped(digits, draw)) for _ in range(3))
    yield "in full width and other groups", full_width(grouped(digits, draw))
    if len(digits) >= LONG:
        yield "glued to its neighbours", f"no{digits}xy"


def of_amount(text: str, draw: random.Random) -> Ways:
    yield "as declared", text
    has_cents = re.search(r"[.,]\d\d?(?!\d)", text) is not None
    if not has_cents and len(digits := re.sub(r"\D", "", text)) >= 4:
        dotted = f"{int(digits):,}".replace(",", ".")
        yield from (("run together", digits), ("in full width", full_width(digits)))
        yield from (("in thousands", form) for form in (dotted, f"{int(digits):,}", f"Rp {dotted}", f"{dotted},00"))
        yield from (("in other groups", grouped(digits, draw)) for _ in range(2))


def of_day(date: dt.date) -> Ways:
    day, month, year = f"{date.day:02}", f"{date.month:02}", f"{date.year}"
    yield "as declared", date.isoformat()
    for order in ((day, month, year), (year, month, day), (month, day, year)):
        yield from (("in figures", sign.join(order)) for sign in ("-", "/", ".", " ", ""))
    yield "in full width", full_width(f"{day}-{month}-{year}")
    yield from (("in figures", f"{date.day}/{date.month}/{shown}") for shown in (year, year[2:]))


def parts_of(name: str) -> list[str]:
    """The parts of a name that are somebody's own, of four letters and more."""
    parts = [part.strip(".") for part in re.split(r"[\s,;&]+", name)]
    return [part for part in parts if len(solid_of(part)) >= 4 and solid_of(part) not in TITLES]


def of_names(text: str, draw: random.Random) -> Ways:
    yield "before a clitic", text + draw.choice(CLITICS)
    for part in parts_of(text):
        yield from (("by a part", part), ("by a part in capitals", part.upper()))
        yield from (("by a part before a clitic", part + draw.choice(CLITICS)), ("by a part", full_width(part)))
        yield from (("by a part", ".".join(part)), ("by a part run together", "".join(re.findall(r"[^\W_]+", part))))
    if len(parts := parts_of(text)) > 1 and not re.search(r",|;|&|\bdan\b|\band\b", text):
        yield "by two parts run together", "".join(draw.sample(parts, 2))


def own_ways(name: str, value: Any, draw: random.Random) -> Ways:
    """Each way to write a value in its own letters or digits."""
    text = declared(value)
    if isinstance(value, dt.date):
        return of_day(value)
    if is_amount(name, text):
        return of_amount(text, draw)
    if not re.search(r"[^\W\d_]", text):
        return of_digits(text, draw)
    if field_of(name).tag in ("FINANCE", "DATE"):  # words with figures: 14,25 juta, 3 Mei 1985
        return itertools.islice(of_letters(text, draw), 5)
    if everyday.kind_of(name, value) == "name":
        return itertools.chain(of_letters(text, draw), of_names(text, draw))
    return of_letters(text, draw)


# ---- and in other words

SPOKEN = ("nol", "satu", "dua", "tiga", "empat", "lima", "enam", "tujuh", "delapan", "sembilan")


def other_ways(name: str, value: Any, draw: random.Random) -> Ways:
    """Some ways to write a value in other words, which only the sanitiser need know."""
    kind, text, words = field_of(name).tag, declared(value), re.findall(r"[^\W_]+", declared(value))
    digits = re.sub(r"\D", "", text)
    if isinstance(value, dt.date):
        month = draw.choice((MONTHS_EN, MONTHS_ID))[value.month - 1]
        yield from (("its month in words", f"{value.day} {month} {value.year}"),
                    ("its month in words", f"{month} {value.day}, {value.year}"),
                    ("its month in words, no year", f"{value.day} {month}"), ("in six digits", f"{value:%d%m%y}"),
                    ("its year after a word", f"kelahiran {value.year}"))  # fmt: skip
    elif is_amount(name, text):
        if digits.endswith("000") and len(digits) > 6:
            yield from (
                ("its noughts in words", f"{int(digits) / 1e6:g}{juta}") for juta in (" juta", "jt", " million")
            )
        if digits.endswith("000000") and len(digits) == 7:
            yield "in number words", f"{SPOKEN[int(digits[0])]} juta"
    elif not re.search(r"[^\W\d_]", text):
        yield from (("in number words", " ".join(SPOKEN[int(digit)] for digit in digits)),
                    ("letters for digits", digits.translate(str.maketrans("015", "OlS"))),
                    ("its last four digits", f"akhiran {digits[-4:]}"))  # fmt: skip
    elif kind == "EMAIL":
        yield from (("its signs in words", text.replace("@", " at ").replace(".", " dot ")),
                    ("short", text.partition("@")[0]))  # fmt: skip
    elif everyday.kind_of(name, value) == "name":
        for part in parts_of(text):
            k = draw.randrange(1, len(part) - 1)
            yield from (("one letter changed", part[:k] + ("o" if part[k] != "o" else "a") + part[k + 1 :]),
                        ("two letters exchanged", part[:k] + part[k + 1] + part[k] + part[k + 2 :]),
                        ("short", part[:3]))  # fmt: skip
    elif kind == "ADDRESS":
        yield from (("its short words at length", text.replace("Jl.", "Jalan").replace("No.", "Nomor")),
                    ("short", re.split(r"[,\n]| No", text)[0]))  # fmt: skip
    elif len(words) > 1 and kind not in ("FINANCE", "DATE"):
        yield "its initials", "".join(word[0] for word in words)
        # At a border three quarters of a value are as good as all of it.
        short = (" ".join(words[1:]), words[0])
        yield from (("short", each) for each in short if len(solid_of(each)) < len(solid_of(text)) * 3 / 4)


# ---- the notes of many people, each with a value written somehow

SEAM = "\n\n⁂ ⁂ ⁂\n\n"  # nothing reaches across it, and no word of it is anybody's


@dataclass(frozen=True)
class Note:
    """A paragraph that writes a declared value.

    Attributes:
        name: of its field.
        way: how it is written.
        own: in its own letters or digits.
        written: so.
        text: that, and the words around it.
        parts: of a name, as the words of each.
        number: all digits of a long number.
    """

    name: str
    way: str
    own: bool
    written: str = field(repr=False)
    text: str = field(repr=False)
    parts: tuple[str, ...] = field(default=(), repr=False)
    number: str = field(default="", repr=False)

    @property
    def kind(self) -> str:
        return field_of(self.name).tag

    def is_left(self, sent: str) -> bool:
        """The oracle: tell whether the value is there as it was written, or a part of a name, or all of a number."""
        words = words_of(sent)
        if words_of(self.written) in words:
            return True
        names = any(f" {part}{clitic} " in words for part in self.parts for clitic in ("", *CLITICS))
        return names or (self.number != "" and self.number in digits_of(sent))


@dataclass(frozen=True)
class Someone:
    """A profile, and notes of that person's."""

    profile: Mapping[str, Any] = field(repr=False)
    notes: tuple[Note, ...] = field(repr=False)


@lru_cache(maxsize=1)
def people() -> list[Someone]:
    """People by authors who had not seen the product, each value in some of its forms, in contexts by the same."""
    draw = random.Random(7)
    contexts: dict[int, dict[tuple[str, str], list[tuple[str, str]]]] = {}
    profiles: dict[int, Mapping[str, Any]] = {}
    for mention in everyday.mentions():
        profiles[who := id(mention.profile)] = mention.profile
        own = contexts.setdefault(who, {})
        own.setdefault((mention.field, mention.written), []).append((mention.before, mention.after))
    drawn = [(profiles[who], contexts[who]) for who in draw.sample(list(profiles), EVERYDAY)]
    for seed, language in itertools.product(range(INVENTED), SENTENCES):
        profile = {canary.field: canary.value for canary in person(language, seed).canaries}
        around = [(before, after) for before, _, after in (each.partition("{}") for each in SENTENCES[language])]
        drawn.append((profile, {(name, declared(value)): around for name, value in profile.items()}))
    return [Someone(profile, tuple(notes_of(profile, own, draw))) for profile, own in drawn]


def notes_of(
    profile: Mapping[str, Any], contexts: Mapping[tuple[str, str], Sequence[tuple[str, str]]], draw: random.Random
) -> Iterator[Note]:
    every = [
        (name, value) for name, given in profile.items() for value in (given if isinstance(given, list) else [given])
    ]
    long = [
        w for name, value in every if everyday.kind_of(name, value) == "name" for w in parts_of(value) if len(w) >= LONG
    ]
    for name, value in every:
        if not is_sought(value):
            continue
        text, is_name = declared(value), everyday.kind_of(name, value) == "name"
        digits = re.sub(r"\D", "", text)
        is_number = not re.search(r"[^\W\d_]", text) and not is_amount(name, text) and not isinstance(value, dt.date)
        own, other = list(own_ways(name, value, draw)), list(other_ways(name, value, draw))
        own, other = (draw.sample(ways, min(FORMS, len(ways))) for ways in (own, other))
        if is_name and long and (short := [part for part in parts_of(text) if len(part) < LONG]):
            own.append(("glued to another value", draw.choice(long) + draw.choice(short)))
        for is_own, ways in ((True, own), (False, other)):
            for way, written in ways:
                before, after = draw.choice(contexts[name, text])
                if is_amount(name, text) and (re.search(r"\d[.,]$", before) or re.match(r"[.,]\d", after)):
                    before = after = ""  # with more digits before or after, it is another number
                parts = [words_of(part).strip() for part in parts_of(text)] if is_name and is_own else []
                number = digits if is_own and is_number and len(digits) >= LONG else ""
                yield Note(name, way, is_own, written, before + written + after, tuple(parts), number)


# ---- the sanitiser with a part switched off


def finds_nothing(self: object, text: object) -> Iterator[Any]:
    return iter(())


def without_kind(kind: type[Variants], patch: Patch) -> None:
    find = Variants.find
    patch.setattr(Variants, "find", lambda self, text: iter(()) if type(self) is kind else find(self, text))


def without_finder(finder: type, patch: Patch) -> None:
    patch.setattr(finder, "find", finds_nothing)


def without_patterns(patch: Patch) -> None:
    """What finds a mail address or a telephone without a profile, and so hides that another part is missing."""
    patch.setattr("llama.privacy.sanitiser.hits_in", lambda view: [])


def without_index(patch: Patch) -> None:
    patch.setattr(SecretIndex, "find", lambda self, text: [])


def without_lookalikes(patch: Patch) -> None:
    patch.setattr(NormalisedText, "with_digits_for_letters", None)


def without_cleaning(patch: Patch) -> None:
    patch.setattr(Sanitiser, "clean", lambda self, text: CleanText(text))


def without_recursion(patch: Patch) -> None:
    """What a tag leaves around it is not looked at again."""
    masked, inside = Sanitiser._masked, list[None]()

    def once(self: Sanitiser, text: str, *, discover: bool) -> Any:
        if inside:
            return [text]
        inside.append(None)
        try:
            return masked(self, text, discover=discover)
        finally:
            inside.pop()

    patch.setattr(Sanitiser, "_masked", once)


FINDERS = (LetterForms, DigitForms, DateForms, AmountForms, CoreForms, Initials, TypingErrors, ShortNames, Endings,
           BirthYears, Ages)  # fmt: skip
KINDS_OFF = {kind.__name__: kind for kind in (*KINDS.values(), Variants)}
SWITCHED_OFF: Mapping[str, Callable[[Patch], None]] = {
    **{name: partial(without_kind, kind) for name, kind in KINDS_OFF.items()},
    "WholeVariants": partial(without_kind, WholeVariants),
    **{finder.__name__: partial(without_finder, finder) for finder in FINDERS},
    "SecretIndex.find": without_index,
    "SecretIndex.find, with patterns": without_index,
    "with_digits_for_letters": without_lookalikes,
    "clean": without_cleaning,
    "the second look": without_recursion,
}


@dataclass
class RefusalCounts:
    """What would leave, by kind, and how much of it the gate refuses."""

    left: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def count(self, what: str, is_refused: bool) -> None:
        self.left[what] += 1
        self.refused[what] += is_refused

    def __str__(self) -> str:
        total = f"{self.refused.total()} of {self.left.total()} refused"
        return total + "".join(f", {what} {self.refused[what]}/{self.left[what]}" for what in sorted(self.left))


def own_words(text: str) -> SourcedPrompt:
    return SourcedPrompt(OwnWords((Message("user", text),)), "file:own")


def refuses(pieces: Sequence[str | CleanText], sanitiser: Sanitiser, chat: ChatFormat, tokenizer: Tokenizer) -> bool:
    try:
        gate.check([Passage("user", tuple(pieces))], sanitiser, chat, tokenizer)
    except PrivacyRefused:
        return True
    return False


def sent_notes(notes: Sequence[Note], sanitiser: Sanitiser) -> Iterator[tuple[Note, str]]:
    """Each note, and what would leave of it."""
    sent = sanitiser.clean(SEAM.join(note.text for note in notes)).text.split(SEAM.strip())
    return zip(notes, (text.strip("\n") for text in sent), strict=bool(notes))


def kind_of_variants(note: Note) -> str:
    return KINDS.get(note.kind, Variants).__name__


def sanitiser_of(someone: Someone) -> Sanitiser:
    return Sanitiser(profile_from(dict(someone.profile)))


@lru_cache(maxsize=1)
def left_anyway() -> frozenset[Note]:
    """The notes whose value is there, in other words, also where no part, or none but the patterns, is switched off."""
    left = set[Note]()
    for switched_off in (lambda patch: None, without_patterns):
        with Patch.context() as patch:
            switched_off(patch)
            for someone in people():
                sent = sent_notes(someone.notes, sanitiser_of(someone))
                left |= {note for note, text in sent if not note.own and note.is_left(text)}
    return frozenset(left)


@pytest.mark.long
@pytest.mark.parametrize("part", SWITCHED_OFF)
def test_what_slips_past_a_sanitiser_without_one_of_its_parts_in_its_own_letters_or_digits_is_refused(
    part: str, monkeypatch: Patch, chat: ChatFormat, tokenizer: Tokenizer, capfd: pytest.CaptureFixture[str]
) -> None:
    """All of it, of every kind; of values in other words the share is printed."""
    others = left_anyway()
    SWITCHED_OFF[part](monkeypatch)
    if "with patterns" not in part:
        without_patterns(monkeypatch)
    own, other, by_way, passed, unseen = RefusalCounts(), RefusalCounts(), RefusalCounts(), list[str](), 0
    for someone in people():
        sanitiser = sanitiser_of(someone)
        # Of a kind of values, only that kind's notes are of interest.
        notes = [each for each in someone.notes if part not in KINDS_OFF or kind_of_variants(each) == part]
        for note, text in sent_notes(notes, sanitiser):
            if note in others or not note.is_left(text):
                unseen += note.own
                continue
            is_refused = refuses([CleanText(text)], sanitiser, chat, tokenizer)
            (own if note.own else other).count(note.kind, is_refused)
            if note.own and not is_refused:
                passed.append(f"{note.name} {note.way}: {note.written!r} in {text!r}")
            if not note.own:
                by_way.count(f"{note.kind} {note.way}", is_refused)
    with capfd.disabled():
        print(f"\nwithout {part}: own letters or digits {own}; other words {other}")
        if part == "clean":
            print(f"other words by way: {by_way}")
    assert not passed
    if part == "clean":
        assert unseen == 0  # an oracle that misses would prove nothing
        assert own.left.keys() >= {"NAME", "CHILD", "PHONE", "EMAIL", "ID", "CARD", "ACCOUNT", "FINANCE", "DATE",
                                   "ADDRESS", "ORG", "HEALTH", "RELIGION", "JOB", "PRIVATE"}  # fmt: skip
        assert min(other.left[kind] for kind in ("NAME", "DATE", "FINANCE", "PHONE", "EMAIL")) > 0


@pytest.mark.long
def test_past_the_whole_sanitiser_nothing_slips_and_nothing_is_refused(chat: ChatFormat, tokenizer: Tokenizer) -> None:
    """The gate sees no more than the sanitiser does, or it would refuse what nobody can mend."""
    left, refused, count = list[str](), list[str](), 0
    for someone in people():
        sanitiser = sanitiser_of(someone)
        for note, text in sent_notes(someone.notes, sanitiser):
            count += 1
            if note.own and note.is_left(text):
                left.append(f"{note.name} {note.way}: {note.written!r} in {text!r}")
            if refuses([CleanText(text)], sanitiser, chat, tokenizer):
                refused.append(f"{note.name} {note.way}: {note.written!r} in {text!r}")
    assert count > 60 * len(people())
    assert not left
    assert not refused


@pytest.mark.parametrize("policy", [FieldPolicy.SECRET, FieldPolicy.QUASI])
@pytest.mark.parametrize("is_substitute", [True, False])
def test_a_field_that_leaves_as_it_is_declared_is_refused(
    policy: FieldPolicy, is_substitute: bool, monkeypatch: Patch, chat: ChatFormat, tokenizer: Tokenizer,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Where a tag or something coarser should stand, and whatever it is taken for."""
    field_text, counts, passed = Sanitiser.field_text, RefusalCounts(), list[str]()

    def raw(self: Sanitiser, name: str) -> CleanText | None:
        each = self.profile.find(name)
        if each is None or each.policy is not policy:
            return field_text(self, name)
        text = ", ".join(map(text_of, each.values))
        return Substitute(text, each.name) if is_substitute else CleanText(text)

    monkeypatch.setattr(Sanitiser, "field_text", raw)
    for someone in people():
        sanitiser = sanitiser_of(someone)
        for name, value in someone.profile.items():
            if field_of(name).policy is policy and all(map(is_sought, value if isinstance(value, list) else [value])):
                text = sanitiser.field_text(name)
                assert text is not None
                is_refused = refuses(["Field: ", text, "\n"], sanitiser, chat, tokenizer)
                counts.count(field_of(name).tag, is_refused)
                passed += [] if is_refused else [f"{name}: {text.text}"]
    with capfd.disabled():
        print(f"\n{policy} fields as declared: {counts}")
    assert not passed
    assert counts.left.total() > 2 * len(people())


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ({"savings": "£4,219.06"}, "Ada £4,219.06 di tabungan."),
        ({"savings": "Rp 120.000.000,00"}, "Tabungannya 120.000.000,00 saja."),
        ({"income": 12700000}, "Gaji Rp 12.700.000,00 per bulan."),
        ({"income": 12700000}, "17,12700000,2023,3.5,yes"),
        ({"income": 12700000}, "17,12.700.000,2023"),
        ({"name": "dr. Bagus Nugroho, Sp.PD"}, "Tanya Sp.PD itu."),
        ({"name": "Nur'aini Saleh"}, "Untuk nuraini saja."),
        ({"name": "Sari Dewi Putri"}, "Akun dewisari, ya."),
        ({"therapist": "Mbak Ratih Prawirasari"}, "Ratih's advice was good."),
        ({"website": "www.rotihok1949.example"}, "www rotihok1949 example"),
        ({"name": "Wulandari"}, "Namanya ⓦⓤⓛⓐⓝⓓⓐⓡⓘ, lho."),
    ],
)
def test_a_value_in_its_own_letters_or_digits_is_refused_also_in_a_form_that_is_rare(
    profile: dict[str, Any], text: str, monkeypatch: Patch, chat: ChatFormat, tokenizer: Tokenizer
) -> None:
    """In a row of a table, with cents, run together: past a sanitiser that does nothing."""
    without_cleaning(monkeypatch)
    with pytest.raises(PrivacyRefused):
        prepare(own_words(text), profile_from(profile), "schema", chat, tokenizer, CONTEXT)


# ---- what is honest passes


@pytest.mark.long
def test_ordinary_prompts_of_people_with_ordinary_values_are_never_refused(
    chat: ChatFormat, tokenizer: Tokenizer
) -> None:
    """A gate that shuts in an honest face is switched off."""
    refused = list[str]()
    profiles = {language: [each for each in everyday.ordinary_profiles() if each["language"] == language]
                for language in ("en", "id")}  # fmt: skip
    for number, (language, text) in enumerate(everyday.ordinary_prompts(PROMPTS, seed=5)):
        profile = dict(profiles[language][number // 2 % len(profiles[language])])
        del profile["language"]
        assert len(profile) == 19
        try:
            prepare(own_words(text), profile_from(profile), "schema", chat, tokenizer, CONTEXT)
        except PrivacyRefused as err:
            refused.append(f"{err}: {text}")
    assert not refused


@pytest.mark.long
def test_ordinary_notes_are_never_refused(chat: ChatFormat, tokenizer: Tokenizer) -> None:
    """Sentences with many numbers, amounts and days that are nobody's."""
    refused = list[str]()
    profiles = itertools.cycle(everyday.ordinary_profiles())
    sheet = SourcedPrompt(Sheet(("Say something about {notes}.",), asks_for=("notes",)), "provider", "notes")
    for text, profile in itertools.product(ORDINARY, itertools.islice(profiles, 24 if SOAK else 2)):
        given = {**profile, "notes": text}
        try:
            prepare(sheet, profile_from(given), "schema", chat, tokenizer, CONTEXT)
        except PrivacyRefused as err:
            refused.append(f"{err}: {text}")
    assert not refused


@pytest.mark.long
def test_everyday_notes_of_people_about_themselves_are_never_refused(chat: ChatFormat, tokenizer: Tokenizer) -> None:
    """Each with a declared value as it is declared, which leaves as a tag."""
    refused = list[str]()
    for mention in everyday.drawn_mentions(1000 if SOAK else 100, seed=5):
        profile = profile_from(dict(mention.profile))
        try:
            prepare(own_words(mention.text), profile, "schema", chat, tokenizer, CONTEXT)
        except PrivacyRefused as err:
            refused.append(f"{err}: {mention.text}")
    assert not refused


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ({"income": 5000000}, "Ide kado untuk ibu, di bawah Rp 500.000"),
        ({"income": "Rp 5.000.000"}, "Ide kado untuk ibu, di bawah Rp 500.000"),
        ({"income": 12500000}, "500.000 untuk satu kado, kira-kira apa?"),
        ({"savings": "£4,219.06"}, "Kirim ke kamar 4219, ya."),
        ({"spouse": "the late Harold Bottomley"}, "Please refund the 45.90 to me."),
        ({"name": "April Joy Summers"}, 'Is "spring" a noun or a verb? And "summer"?'),
        ({"salary": 85000}, "Harganya 1,285,000 atau 85,000,000 rupiah."),
    ],
)
def test_a_prompt_that_only_looks_like_a_value_is_not_refused(
    profile: dict[str, Any], text: str, chat: ChatFormat, tokenizer: Tokenizer
) -> None:
    """Another price than the income, a word than the name."""
    assert text in prepare(own_words(text), profile_from(profile), "schema", chat, tokenizer, CONTEXT).outgoing.text


# ---- most of a value at a text's border

WORDS = {
    "name": "Wulandari", "employer": "Kopi Nusantara Abadi", "diagnosis": "schizophrenia", "job": "pengrajin tenun",
    "email": "kirana@kopihitam.example", "website": "kopihitamku.example", "club": "perkumpulan anggrek kota",
}  # fmt: skip
NUMBERS = {"card": "4111736134277821", "nik": "3273015204910003", "bank_account": "8830123456", "phone": "81234567890"}


@pytest.mark.parametrize("is_end", [True, False])
@pytest.mark.parametrize("name", [*WORDS, *NUMBERS])
def test_most_of_a_value_at_a_border_is_refused_and_less_is_not_whatever_the_sheet_says_there(
    name: str, is_end: bool, chat: ChatFormat, tokenizer: Tokenizer
) -> None:
    """Three quarters of its letters, six at least; six digits of a number. Were a sheet's words read, it could ask."""
    value = {**WORDS, **NUMBERS}[name]
    places = [i for i, char in enumerate(value) if char.isalnum()]
    least = 6 if name in NUMBERS else max(6, math.ceil(len(places) * 3 / 4))
    sanitiser = Sanitiser(profile_from({name: value}))
    for count in range(1, len(places)):
        said, rest = value[: places[count - 1] + 1], value[places[count - 1] + 1 :]
        if not is_end:
            rest, said = value[: places[-count]], value[places[-count] :]
        text = f"zo {said}" if is_end else f"{said} zo"
        for sheet in ("", rest, f" {rest}", ".", "\n", value, "nothing", rest[:1], rest[::-1], "7", "x" * 300):
            pieces: tuple[str | CleanText, ...] = (CleanText(text), sheet) if is_end else (sheet, CleanText(text))
            assert refuses(pieces, sanitiser, chat, tokenizer) == (count >= least), (count, least)
