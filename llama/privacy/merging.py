"""The merge of a sheet's words and the person's into a dialogue that still separates them.

The sheet's words pass byte for byte, for any profile. If they were masked or refused where they equal a
secret, a sheet that lists a thousand names would learn which one is the person's.

A sheet places a field with ``{field}`` in a question. Fields that it asks for and does not place follow the questions,
one line each. A third party's sheet is wrapped in the provider's own system prompt.

Knows nothing about: how words are cleaned, tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from llama.chat import Message
from llama.prefix import instructions
from llama.privacy.policy import label_of
from llama.privacy.sanitiser import CleanText, Sanitiser
from llama.privacy.tags import AS_ISSUED
from llama.prompt import OwnWords
from llama.sheets import Sheet

NOT_GIVEN = {"en": "not given", "id": "tidak diisi"}


@dataclass(frozen=True)
class Passage:
    """A message in pieces: plain text comes from a sheet or the product, CleanText from the person."""

    role: str
    pieces: tuple[str | CleanText, ...] = field(repr=False)

    @property
    def message(self) -> Message:
        """The message that is encoded."""
        return Message(self.role, "".join(p if isinstance(p, str) else p.text for p in self.pieces))

    @property
    def characters(self) -> int:
        """The length of the message, computed without joining its pieces."""
        return sum(len(p if isinstance(p, str) else p.text) for p in self.pieces)

    @property
    def own_spans(self) -> list[tuple[int, int]]:
        """The spans of the person's pieces in the message's content."""
        spans, position = list[tuple[int, int]](), 0
        for piece in self.pieces:
            length = len(piece if isinstance(piece, str) else piece.text)
            if isinstance(piece, CleanText):
                spans.append((position, position + length))
            position += length
        return spans


def merge(sheet: Sheet, sanitiser: Sanitiser, *, party: str = "", provider_system: str = "") -> list[Passage]:
    """Return the dialogue of a sheet.

    Args:
        sheet: the sheet that asks.
        sanitiser: the sanitiser of the profile that fills the sheet.
        party: the third party of the sheet, as the channel states it; empty for the provider's own.
        provider_system: the provider's system prompt, in which a third party's sheet is wrapped.
    """
    given = instructions(sheet, party=party, provider_system=provider_system)
    passages = [Passage(message.role, (message.content,)) for message in given]
    values: dict[str, str | CleanText] = {}
    for name in sheet.asks_for:
        values[name] = sanitiser.field_text(name) or NOT_GIVEN[sheet.language]
    pieces, placed = _filled("\n".join(sheet.questions), values)
    for name in sheet.asks_for:
        if name not in placed:
            pieces += [f"\n{label_of(name, sheet.language)}: ", values[name]]
    return [*passages, Passage("user", tuple(pieces))]


def own_words(words: OwnWords, sanitiser: Sanitiser) -> list[Passage]:
    """Return the dialogue of the person's own words, cleaned."""
    return [Passage(turn.role, (sanitiser.clean(turn.content),)) for turn in words.dialog]


def _filled(text: str, values: dict[str, str | CleanText]) -> tuple[list[str | CleanText], set[str]]:
    """Fill each ``{field}`` of ``text`` that is asked for. Any other brace is text. Also return the fields placed."""
    pieces, placed, position = list[str | CleanText](), set[str](), 0
    for m in re.finditer(r"\{([a-z][a-z0-9_]*)\}", text):
        if m[1] in values:
            pieces += [text[position : m.start()], values[m[1]]]
            placed.add(m[1])
            position = m.end()
    return [*pieces, text[position:]], placed


def texts_of(sheet: Sheet, provider_system: str) -> Sequence[str]:
    """Return all texts in the dialogue of a sheet besides the person's words."""
    return [provider_system, *sheet.texts]


def tags_composed(passages: Sequence[Passage], issued: Iterable[str]) -> list[str]:
    """Return issued tags that a sheet composes with the person's words, ``[NAME_{quantity}]``; they have no value."""
    sought, composed = frozenset(issued), set[str]()
    for passage in passages:
        pieces = (piece.text for piece in passage.pieces if isinstance(piece, CleanText))
        own = Counter(tag for text in pieces for tag in AS_ISSUED.findall(text))
        written = Counter(AS_ISSUED.findall(passage.message.content))
        composed.update(tag for tag in sought.intersection(written) if written[tag] > own[tag])
    return sorted(composed)
