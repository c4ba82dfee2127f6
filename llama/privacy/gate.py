"""THE GATE: an independent final check of the person's own text before it leaves.

It takes the secrets from the profile and reads these texts (``llama.privacy.gate_clues``,
``llama.privacy.gate_reader``):

1. The ids about to be embedded, decoded into text. They must be the text of the dialogue and nothing else.
2. Each piece of it that is the person's. It must not contain a secret, nor three quarters of one at its border, which
   other words could complete.
3. The person's pieces one after another, in case a value was cut in two.

The gate reads no word of a sheet, so neither its answer nor its work depends on a sheet. Generalised values are not the
person's words: they are checked only against the values that they must not equal. A refusal names the field, never the
value.
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
CUT = 3  # least letters or digits in each of two pieces of a value that was cut in two


@dataclass(frozen=True)
class Outgoing:
    """A prompt that has passed the gate.

    Attributes:
        ids: the ids to be embedded.
        text: their text.
        shared: how many of the ids, from the first, are words of the sheet and the product: the same for all devices.
        preface: the text of the model's chat template before them.
    """

    ids: tuple[int, ...] = field(repr=False)
    text: str = field(repr=False)
    shared: int = 0
    preface: str = field(default="", repr=False)


def check(passages: Sequence[Passage], sanitiser: Sanitiser, chat: ChatFormat, tokenizer: Tokenizer) -> Outgoing:
    """Return the ids of a dialogue, or refuse it if it contains a secret.

    Raises:
        PrivacyRefused: the dialogue contains a secret value; the error names the field.
        PromptError: the model's vocabulary cannot write the dialogue.
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
        raise PrivacyRefused("gate: the token ids decode to another text than the prompt; nothing was sent")
    spans = [
        # Below 0 where a format strips more than it writes before the message.
        None if offset is None else (max(offset + start, 0), max(offset + end, 0))
        for passage, offset in zip(passages, encoded.offsets, strict=True)
        for start, end in passage.own_spans
    ]
    # A template may have rewritten a message. Then each of its pieces is read in its form before that.
    said = [piece.text if span is None else decoded[slice(*span)] for piece, span in zip(pieces, spans, strict=True)]
    own = dict.fromkeys(zip(pieces, said, strict=True))
    for piece, words in own:
        if isinstance(piece, Substitute):
            reader.refuse_substitute(piece.field, words)
        else:
            reader.refuse(words)
    return outgoing


def _refuse_what_cannot_be_written(dialog: Sequence[Message], tokenizer: Tokenizer) -> None:
    """Refuse messages with characters that the vocabulary lacks: some lack some control characters."""
    for i, message in enumerate(dialog, start=1):
        if tokenizer.decode(tokenizer.encode(message.content, bos=False, eos=False)) != message.content:
            raise PromptError(
                f"message {i} of {len(dialog)} has characters that the model's vocabulary cannot write; "
                f"remove control characters from the sheet"
            )


class _PieceReader:
    """Reader of the person's pieces, with the issued tags removed."""

    def __init__(self, clues: Sequence[Clue], tags: Iterable[str]) -> None:
        self._clues, self._tags = clues, frozenset(tags)

    def refuse(self, piece: str) -> None:
        """Refuse a piece that contains a secret, or enough of one at its border that other words could complete it."""
        read = ReadText(self._without_tags(piece))
        for clue in self._clues:
            if next(read.says(clue), None) is not None or read.ends_with_most_of(clue):
                _refuse(clue.field)

    def refuse_substitute(self, name: str, piece: str) -> None:
        """Refuse a substitute for a field if it is the field's value, or another value in letters.

        The figures of a band or a decade may well equal those of another field.
        """
        clues = [
            clue
            for clue in self._clues
            if clue.field == name or (isinstance(clue, Letters) and not any(map(str.isdigit, clue.form)))
        ]
        if (found := read_in(self._without_tags(piece), clues)) is not None:
            _refuse(found)

    def refuse_cut(self, pieces: Sequence[str]) -> None:
        """Refuse pieces that together contain a secret, each of them a share of it.

        A piece that occurs in many places is read once, and each pair of neighbours once.
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
                continue  # a number in one piece and a month in another are no date
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
        f"gate: the prompt contains the value of {name}; nothing was sent; shorten or reword the text that mentions it"
    )
