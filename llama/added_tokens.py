"""Added tokens, found in a text before it is cut: special ones, and words of the vocabulary.

They are found as the ``tokenizers`` library does (github.com/huggingface/tokenizers, ``added_vocabulary.rs``): leftmost
first, of those that begin there the longest, with their flags; tokens with ``normalized`` in what the others have left.

Knows nothing about: ids of ordinary text, chat formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import regex

# What the library takes for whitespace beside a token (Unicode's White_Space), and for a part of a word.
_SPACES = re.compile(r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*")
_WORD = regex.compile(r"\w")


class TokenFlags(msgspec.Struct, frozen=True, omit_defaults=True):
    """How an added token is found; the names are those of ``tokenizer.json``.

    Attributes:
        lstrip: it takes in whitespace before it.
        rstrip: it takes in whitespace behind it.
        single_word: it does not count inside a word.
        normalized: it is looked for in what those without this flag have left.
    """

    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


PLAIN = TokenFlags()


@dataclass(frozen=True)
class Segment:
    """A stretch of a text, from ``start`` to before ``end``: ordinary, or an added token with what it takes in."""

    start: int
    end: int
    id: int | None = None


class Literals:
    """Finds some texts in another: leftmost first, of those that begin there the longest; none overlap."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = frozenset(texts)
        lengths = dict[str, set[int]]()
        for text in self._texts:
            lengths.setdefault(text[0], set()).add(len(text))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        self._firsts = re.compile(f"[{''.join(map(re.escape, sorted(lengths)))}]" if lengths else "(?!)")

    def find(self, text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Where they stand in ``text[start:end]``, in order."""
        at = start
        for found in self._firsts.finditer(text, start, end):
            begin = found.start()
            if begin < at:
                continue
            for length in self._lengths[found[0]]:
                if begin + length <= end and text[begin : begin + length] in self._texts:
                    at = begin + length
                    yield begin, at
                    break


class AddedTokens:
    """Cuts a text at added tokens.

    Args:
        special_tokens: id by text.
        words: of those that are no special ones.
        flags: of both, by text; one that is not named has none.
    """

    def __init__(
        self, special_tokens: Mapping[str, int], words: Mapping[str, int], flags: Mapping[str, TokenFlags]
    ) -> None:
        self._ids = {**words, **special_tokens}
        self._flags, self._special = flags, frozenset(special_tokens)
        late = {text for text in self._ids if flags.get(text, PLAIN).normalized}
        passes = [some for some in (self._ids.keys() - late, late) if some]
        self._with_special = [Literals(some) for some in passes]
        self._words_only = [Literals(some) for some in passes if some & words.keys()]

    def segments(self, text: str, *, special: bool) -> Iterator[Segment]:
        """Cut a text into ordinary stretches and added tokens; special ones count only if ``special``."""
        return self._cut(text, 0, len(text), self._with_special if special else self._words_only, special)

    def _cut(self, text: str, start: int, end: int, passes: Sequence[Literals], special: bool) -> Iterator[Segment]:
        """The segments of ``text[start:end]``: each pass looks at what those before it have left."""
        if not passes:
            if start < end:
                yield Segment(start, end)
            return
        at = start
        for begin, stop in passes[0].find(text, start, end):
            token = text[begin:stop]
            if not special and token in self._special:
                continue
            flags = self._flags.get(token, PLAIN)
            if flags.single_word and (
                (begin > start and _WORD.match(text[begin - 1])) or (stop < end and _WORD.match(text[stop]))
            ):
                continue
            if flags.lstrip:
                while begin > at and _SPACES.fullmatch(text[begin - 1]):
                    begin -= 1
            if flags.rstrip and (spaces := _SPACES.match(text, stop, end)):
                stop = spaces.end()
            if begin < at:  # the one before has taken in where this one begins
                continue
            yield from self._cut(text, at, begin, passes[1:], special)
            yield Segment(begin, stop, self._ids[token])
            at = stop
        yield from self._cut(text, at, end, passes[1:], special)
