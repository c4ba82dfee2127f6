"""Material by authors who had not seen the product: people, contexts of everyday notes, ordinary prompts, cases.

``tests/data/README.md`` says how each was made. Knows nothing about: ``llama.privacy``.
"""

from __future__ import annotations

import datetime as dt
import random
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent / "data"

# For which kinds of contexts a field's value reads naturally; "any" contexts take all.
NAMES = (
    "name", "nickname", "spouse", "children", "mother_name", "father_name", "boss", "friend_name", "caretaker",
    "therapist", "emergency_contact",
)  # fmt: skip
NUMBERS = (
    "phone", "whatsapp", "nik", "ssn", "passport", "plate", "card", "bank_account", "iban", "npwp", "bpjs", "kk",
    "employee_id", "pin", "loyalty_number",
)  # fmt: skip
AMOUNTS = ("income", "salary", "savings", "debt", "loan")


def kind_of(name: str, value: object) -> str:
    """Tell which contexts a value reads naturally in."""
    if name in NAMES:
        return "name"
    if name in AMOUNTS:
        return "amount"
    if name in NUMBERS:
        return "number"
    if name in ("birth_date", "wedding_date") or isinstance(value, dt.date):
        return "date"
    return "address" if name in ("address", "office_address") else "text"


@dataclass(frozen=True)
class Mention:
    """A declared value in an everyday context.

    Attributes:
        profile: whose, without notes.
        field: which of its fields.
        written: the value, as it is declared.
        before: the context up to it.
        after: the context from it on.
        context: the context's id.
    """

    profile: Mapping[str, Any] = field(repr=False)
    field: str
    written: str
    before: str
    after: str
    context: str

    @property
    def text(self) -> str:
        """The note."""
        return self.before + self.written + self.after


@lru_cache(maxsize=1)
def _everyday() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    people = tomllib.loads((DATA / "everyday" / "people.toml").read_text(encoding="utf-8"))["person"]
    contexts = tomllib.loads((DATA / "everyday" / "contexts.toml").read_text(encoding="utf-8"))["context"]
    return people, contexts


def mentions() -> Iterator[Mention]:
    """Give every declared value of every person in every context in which it reads naturally."""
    people, contexts = _everyday()
    for person in people:
        for name, given in person["profile"].items():
            for value in given if isinstance(given, list) else [given]:
                written = value.isoformat() if isinstance(value, dt.date) else str(value)
                for context in contexts:
                    kinds = context["kinds"]
                    if person["language"] in context["languages"] and ({"any", kind_of(name, value)} & set(kinds)):
                        before, _, after = context["text"].partition("§")
                        yield Mention(person["profile"], name, written, before, after, context["id"])


def drawn_mentions(count: int, seed: int) -> list[Mention]:
    """Draw some of the mentions."""
    every = list(mentions())
    return every if count >= len(every) else random.Random(seed).sample(every, count)


# ---- ordinary prompts


def ordinary_profiles() -> list[dict[str, Any]]:
    """Give profiles of 19 fields, many of them with values that are ordinary words or round numbers."""
    people = tomllib.loads((DATA / "ordinary" / "profiles.toml").read_text(encoding="utf-8"))["person"]
    return [{"language": each["language"], **each["profile"]} for each in people]


_SLOT = re.compile(r"\{([a-z0-9_]+)\}")


def ordinary_prompts(count: int, seed: int) -> list[tuple[str, str]]:
    """Draw distinct ordinary prompts, each with its language: both in turn, the templates in shuffled rounds."""
    data = tomllib.loads((DATA / "ordinary" / "prompts.toml").read_text(encoding="utf-8"))
    draw = random.Random(seed)
    languages = sorted(data["slots"])
    texts = {each: [t["text"] for t in data["template"] if t["language"] == each] for each in languages}
    decks: dict[str, list[str]] = {each: [] for each in languages}
    found = dict[tuple[str, str], None]()
    while len(found) < count:
        language = languages[len(found) % len(languages)]
        if not decks[language]:
            decks[language] = draw.sample(texts[language], len(texts[language]))
        found[language, _filled(decks[language].pop(), data["slots"][language], draw)] = None
    return list(found)


def _filled(text: str, slots: Mapping[str, list[str]], draw: random.Random) -> str:
    """Fill a template; a slot that it names several times gets different entries."""
    names = _SLOT.findall(text)
    entries = {name: draw.sample(slots[name], names.count(name)) for name in dict.fromkeys(names)}
    return _SLOT.sub(lambda m: entries[m[1]].pop(), text)


# ---- cases of leaks


@dataclass(frozen=True)
class Case:
    """A profile and a text, what must not be in what leaves, and what must.

    Attributes:
        name: for a test's id.
        kind: which kind of leak.
        language: of the sheet.
        profile: of the person, without notes.
        notes: the person's text, or empty.
        asks: fields that the sheet asks for besides.
        question: the sheet's own words, if they matter.
        reply: with tags, if it is about restoring.
        absent: what must not leave; without case.
        present: what must.
        tags_differ: no two tags that leave may be equal.
        left: why it is not asked of the product; empty for nearly all.
    """

    name: str
    kind: int
    language: str
    profile: Mapping[str, Any] = field(repr=False)
    notes: str = field(repr=False)
    asks: tuple[str, ...]
    question: str
    reply: str
    absent: tuple[str, ...]
    present: tuple[str, ...]
    tags_differ: bool
    left: str


def cases() -> list[Case]:
    """Give all cases, in the order of the files."""
    found = list[Case]()
    for path in sorted((DATA / "leaks").glob("*.toml")):
        for number, each in enumerate(tomllib.loads(path.read_text(encoding="utf-8"))["case"], start=1):
            found.append(
                Case(
                    f"{path.stem}-{number}-kind-{each['kind']}", each["kind"], each.get("language", "en"),
                    each["profile"], each.get("notes", ""), tuple(each.get("asks", ())), each.get("question", ""),
                    each.get("reply", ""), tuple(each.get("absent", ())), tuple(each.get("present", ())),
                    each.get("tags_differ", False), each.get("left", ""),
                )
            )  # fmt: skip
    return found
