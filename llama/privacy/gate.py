"""THE GATE: reads the person's own text once more before it leaves, by itself.

It asks the profile what is secret, and reads (``llama.privacy.gate_clues``, ``llama.privacy.gate_reader``):

1. the ids about to be embedded, turned back into text: that must be the dialogue's text and nothing else;
2. each piece of it that is the person's: no secret may be in it, nor three quarters of one at its border, which other
   words could complete;
3. the person's pieces one after another, in case a value was cut in two.

No word of a sheet is read, so neither the answer nor the work depends on any. What was made coarser is no word of the
person's: it is read only for values that it must not be. A refusal names the field, never the value.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from llama.chat import ChatFormat, Message
from llama.errors import PrivacyRefused, PromptError
from llama.privacy.gate_clues import SURE, Clue, Date, Letters, clues_of
from llama.privacy.gate_reader import TAG, ReadText, read_in
from llama.privacy.merging import Passage
from llama.privacy.sanitiser import CleanText, Sanitiser, Substitute
from llama.tokenizer import Tokenizer

_LIKE_A_TAG = re.compile(r"\[[A-Z]+_[0-9]+\]")
CUT = 3  # letters or digits that each of two pieces must give to a value that was cut in two


@dataclass(frozen=True)
class Outgoing:
    """A prompt that has passed the gate.

    Attributes:
        ids: to be embedded.
        text: what they are.
        shared: how many of the ids, from the first, are a sheet's and the product's own words: the same for everybody.
        preface: what the model's chat template says before them.
    """

    ids: tuple[int, ...] = field(repr=False)
    text: str = field(repr=False)
    shared: int = 0
    preface: str = field(default="", repr=False)


def check(passages: Sequence[Passage], sanitiser: Sanitiser, chat: ChatFormat, tokenizer: Tokenizer) -> Outgoing:
    """Give the ids of a dialogue, if nothing in it must stay.

    Raises:
        PrivacyRefused: a secret value is in it; names the field.
        PromptError: it cannot be written in the model's vocabulary.
    """
    dialog = [passage.message for passage in passages]
    everybodys = itertools.takewhile(lambda passage: not passage.own_spans, passages[:-1])
    encoded = chat.encode(dialog, prefix_messages=sum(1 for _ in everybodys))
    outgoing = Outgoing(tuple(encoded.ids), decoded := tokenizer.decode(encoded.ids), encoded.shared, encoded.preface)
    if sanitiser.mode == "off":
        return outgoing
    pieces = [piece for passage in passages for piece in passage.pieces if isinstance(piece, CleanText)]
    reader = _PieceReader(clues_of(sanitiser.profile), sanitiser.tags)
    reader.refuse_cut([piece.text for piece in pieces if not isinstance(piece, Substitute)])
    if decoded != encoded.text:
        _refuse_what_cannot_be_written(dialog, tokenizer)
        raise PrivacyRefused("gate: the ids about to be sent say something else than the prompt; nothing was sent")
    spans = [
        # Below 0 where a format strips more than it writes before the message.
        None if offset is None else (max(offset + start, 0), max(offset + end, 0))
        for passage, offset in zip(passages, encoded.offsets, strict=True)
        for start, end in passage.own_spans
    ]
    # A template may have rewritten a message: then each of its pieces is read as it was before.
    said = [piece.text if span is None else decoded[slice(*span)] for piece, span in zip(pieces, spans, strict=True)]
    own = dict.fromkeys(zip(pieces, said, strict=True))
    for piece, words in own:
        if isinstance(piece, Substitute):
            reader.refuse_substitute(piece.field, words)
        else:
            reader.refuse(words)
    return outgoing


def _refuse_what_cannot_be_written(dialog: Sequence[Message], tokenizer: Tokenizer) -> None:
    """Some vocabularies lack some control characters."""
    for i, message in enumerate(dialog, start=1):
        if tokenizer.decode(tokenizer.encode(message.content, bos=False, eos=False)) != message.content:
            raise PromptError(
                f"message {i} of {len(dialog)} has characters that the model's vocabulary cannot write; "
                f"remove control characters from the sheet"
            )


class _PieceReader:
    """Reads the person's pieces, with the issued tags taken out."""

    def __init__(self, clues: Sequence[Clue], tags: Iterable[str]) -> None:
        self._clues, self._tags = clues, frozenset(tags)

    def refuse(self, piece: str) -> None:
        """Refuse a piece that says a secret, or so much of one at its border that other words could complete it."""
        read = ReadText(self._without_tags(piece))
        for clue in self._clues:
            if next(read.says(clue), None) is not None or read.ends_with_most_of(clue):
                _refuse(clue.field)

    def refuse_substitute(self, name: str, piece: str) -> None:
        """Refuse what stands for a field, if it is the value itself, or another one in letters.

        A band's or a decade's figures may well be those of another field.
        """
        clues = [
            clue
            for clue in self._clues
            if clue.field == name or (isinstance(clue, Letters) and not any(map(str.isdigit, clue.form)))
        ]
        if (found := read_in(self._without_tags(piece), clues)) is not None:
            _refuse(found)

    def refuse_cut(self, pieces: Sequence[str]) -> None:
        """Refuse pieces that say a secret one after another, each of them a share of it.

        A piece that stands in many places is read once, and each pair of neighbours once.
        """
        pieces = [self._without_tags(piece) for piece in pieces]
        once = list(dict.fromkeys(pieces))
        read = frozenset(itertools.pairwise(once))
        pairs = [pair for pair in dict.fromkeys(itertools.pairwise(pieces)) if pair not in read]
        for glue in ("", " "):
            for joined in [once, *pairs]:
                self._refuse_across(joined, glue)

    def _refuse_across(self, pieces: Sequence[str], glue: str) -> None:
        read, borders, at = ReadText(glue.join(pieces)), list[int](), 0
        for piece in pieces[:-1]:
            at += ReadText.count(piece)
            borders.append(at)
        for clue in self._clues:
            if isinstance(clue, Date):
                continue  # a number here and a month there
            for start, end in read.says(clue):
                first, last = bisect.bisect_right(borders, start), bisect.bisect_left(borders, end)
                edges = [start, *borders[first:last], end]
                shares = [b - a for a, b in itertools.pairwise(edges)]
                if len(shares) > 1 and end - start >= SURE and min(shares) >= CUT:
                    _refuse(clue.field)

    def _without_tags(self, text: str) -> str:
        return _LIKE_A_TAG.sub(lambda m: TAG if m[0] in self._tags else m[0], text)


def _refuse(name: str) -> None:
    raise PrivacyRefused(
        f"gate: the value of {name} was about to leave the device; nothing was sent; "
        f"shorten or reword the text that mentions it"
    )
