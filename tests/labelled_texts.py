"""Texts in which independent authors marked the personal data: ``tests/data/undeclared/``.

Each file has the texts of one author. A text begins with a head line, ``=== personal chat`` or ``=== clean table``, and
a value in it is written ``⟦kind:value⟧``. The folder's README says who wrote them and what each kind means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parent / "data" / "undeclared"
NUMBER_KINDS = ("phone", "id", "plate", "account")
KINDS = (
    "full", "given", "address", *NUMBER_KINDS, "email", "handle", "date", "employer", "school", "health", "creed",
    "income", "age",
)  # fmt: skip
NOT_COUNTED = ("unsure",)

_HEAD = re.compile(r"^=== (personal|clean) (\w+)[ \t]*\n", re.MULTILINE)
_LABEL = re.compile(r"⟦(\w+):([^⟦⟧]+)⟧")


@dataclass(frozen=True)
class Value:
    """A stretch ``text[start:end]`` that the author marked."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class LabelledText:
    """A text with its values.

    Attributes:
        language: ``en`` or ``id``.
        author: the author's name.
        form: what sort of text it is: chat, form, note, table, json, list, voice.
        personal: whether it has personal data.
        text: the text without labels.
        values: the values, by position.
    """

    language: str
    author: str
    form: str
    personal: bool
    text: str
    values: tuple[Value, ...]


@lru_cache(maxsize=8)
def labelled_texts(half: str, language: str) -> tuple[LabelledText, ...]:
    """Return the texts of a half, ``open`` or ``sealed``. Only the evaluation reads the sealed half."""
    files = sorted((ROOT / half).glob(f"{language}-*.txt"))
    return tuple(text for file in files for text in texts_in(file))


def texts_in(file: Path) -> Iterator[LabelledText]:
    """Yield the texts of one author's file."""
    language, _, author = file.stem.partition("-")
    _, *parts = _HEAD.split(file.read_text(encoding="utf-8"))
    for what, form, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        text, values = _without_labels(body.strip("\n"))
        yield LabelledText(language, author, form, what == "personal", text, values)


def _without_labels(body: str) -> tuple[str, tuple[Value, ...]]:
    pieces, values, position, length = list[str](), list[Value](), 0, 0
    for label in _LABEL.finditer(body):
        before = body[position : label.start()]
        start = length + len(before)
        length = start + len(label[2])
        pieces += [before, label[2]]
        values.append(Value(start, length, label[1]))
        position = label.end()
    return "".join(pieces) + body[position:], tuple(values)
