"""THE GATE: the last look at what is about to leave, by nobody's leave but its own.

Searched for every secret value, in all its written forms:

1. the person's pieces of the dialogue one after another, without what stands between, in case a value was cut in two;
2. the ids about to be embedded, turned back into text: that must be the dialogue's text and nothing else. In it, each
   of the person's pieces;
3. and the windows across each piece's borders: a hit counts if nearly all of it is the person's. One that a sheet
   completes does not count, or its author could try out guesses: what is refused is seen.

A hit is refused with the field's name, never with the value. What the sheet says is not searched.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import regex

from llama.chat import ChatFormat, Message
from llama.errors import PrivacyRefused, PromptError
from llama.privacy.merging import Passage
from llama.privacy.normalised import compact
from llama.privacy.sanitiser import CleanText, Sanitiser
from llama.privacy.secret_index import SecretIndex
from llama.tokenizer import Tokenizer

LONG = 8  # letters and digits of a value that are as good as all of it
WINDOW = 200  # characters before and after a border
OWN = 0.75  # of a hit's letters and digits, and no fewer than LONG: so much of a value is as good as all of it
CUT = 3  # letters or digits that each of two pieces must give to a value that was cut in two


@dataclass(frozen=True)
class Outgoing:
    """A prompt that has passed the gate.

    Attributes:
        ids: to be embedded.
        text: what they are.
        shared: how many of the ids, from the first, are a sheet's and the product's own words: the same for everybody.
    """

    ids: tuple[int, ...] = field(repr=False)
    text: str = field(repr=False)
    shared: int = 0


def passed(passages: Sequence[Passage], sanitiser: Sanitiser, chat: ChatFormat, tokenizer: Tokenizer) -> Outgoing:
    """The ids of a dialogue, if nothing in it must stay.

    Raises:
        PrivacyRefused: a secret value is in it; names the field.
        PromptError: it cannot be written in the model's vocabulary.
    """
    dialog = [passage.message for passage in passages]
    ids = chat.encode_dialog_prompt(dialog)
    outgoing = Outgoing(tuple(ids), decoded := tokenizer.decode(ids), _shared(passages, ids, chat))
    if sanitiser.mode == "off":
        return outgoing
    own = [piece.text for passage in passages for piece in passage.pieces if isinstance(piece, CleanText)]
    search = _Search(sanitiser.secrets, sanitiser.tags)
    search.refuse_cut(own)
    text, offsets = chat.spell(dialog)
    if decoded != text:
        _refuse_what_cannot_be_written(dialog, tokenizer)
        raise PrivacyRefused("gate: the ids about to be sent say something else than the prompt; nothing was sent")
    spans = [
        (offset + start, offset + end)
        for passage, offset in zip(passages, offsets, strict=True)
        for start, end in passage.own_spans
    ]
    search.refuse_across(decoded, spans)
    return outgoing


def _shared(passages: Sequence[Passage], ids: list[int], chat: ChatFormat) -> int:
    """Ids of the messages before the question, up to the first that has a word of the person's."""
    others = itertools.takewhile(lambda passage: not passage.own_spans, passages[:-1])
    opening = chat.encode_opening([passage.message for passage in others])
    return len(opening) if ids[: len(opening)] == opening else 0


def _refuse_what_cannot_be_written(dialog: Sequence[Message], tokenizer: Tokenizer) -> None:
    """Some vocabularies lack some control characters."""
    for i, message in enumerate(dialog, start=1):
        if tokenizer.decode(tokenizer.encode(message.content, bos=False, eos=False)) != message.content:
            raise PromptError(f"message {i} of {len(dialog)} has characters that the model's vocabulary cannot write; "
                              f"remove control characters from the sheet")  # fmt: skip


class _Search:
    """Looks for secrets in text, with the issued tags taken out."""

    def __init__(self, secrets: SecretIndex, tags: Iterable[str]) -> None:
        self.secrets = secrets
        issued = sorted(map(regex.escape, tags), key=len, reverse=True)
        self._tags = regex.compile("|".join(issued)) if issued else None

    def refuse_any(self, text: str) -> None:
        for part in self._tags.split(text) if self._tags else [text]:
            for found in self.secrets.find(part):
                self._refuse(found.index)

    def refuse_cut(self, pieces: Sequence[str]) -> None:
        for glue in ("", " "):
            text, borders = glue.join(map(self._without_tags, pieces)), list[int]()
            for piece in pieces[:-1]:
                borders.append((borders[-1] if borders else -len(glue)) + len(glue) + len(piece))
            for found in self.secrets.find(text):
                edges = [found.start, *(b for b in borders if found.start < b < found.end), found.end]
                parts = [len(compact(text[a:b])) for a, b in itertools.pairwise(edges)]
                hit, tag = text[found.start : found.end], self.secrets.secrets[found.index].tag
                if tag == "ADDRESS" and not any(c.isdigit() for c in hit):
                    continue  # words of two lists that happen to name the street
                if len(parts) > 1 and sum(parts) >= LONG and min(parts) >= CUT:
                    self._refuse(found.index)

    def refuse_across(self, text: str, spans: Sequence[tuple[int, int]]) -> None:
        for start, end in spans:
            self.refuse_any(text[start:end])
            first, last = max(0, start - WINDOW), min(len(text), end + WINDOW)
            for found in self.secrets.find(self._without_tags(text[first:last])):
                a, b = first + found.start, first + found.end
                own = sum(len(compact(text[max(a, s) : min(b, e)])) for s, e in spans if s < b and e > a)
                if own >= max(LONG, OWN * len(compact(text[a:b]))):
                    self._refuse(found.index)

    def _without_tags(self, text: str) -> str:
        """Issued tags as so many signs that no value reaches across them."""
        return self._tags.sub(lambda m: "\0" * len(m[0]), text) if self._tags else text

    def _refuse(self, index: int) -> None:
        secret = self.secrets.secrets[index]
        raise PrivacyRefused(f"gate: the value of {secret.field} was about to leave the device; nothing was sent; "
                             f"shorten or reword the text that mentions it")  # fmt: skip
