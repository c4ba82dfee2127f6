"""Finding added tokens (special tokens and words of the vocabulary) in a text before it is split.

The search follows the ``tokenizers`` library (github.com/huggingface/tokenizers, ``added_vocabulary.rs``): leftmost
first, then the longest at that place, with the tokens' flags. Tokens with ``normalized`` are searched in the remaining
text.

Knows nothing about: ids of ordinary text, chat formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import regex

# The library's whitespace beside a token (Unicode's White_Space), and its characters of a word.
_SPACES = re.compile(r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*")
_WORD = regex.compile(r"\w")


class TokenFlags(msgspec.Struct, frozen=True, omit_defaults=True):
    """Matching flags of an added token, with the names of ``tokenizer.json``.

    Attributes:
        lstrip: the match includes whitespace before the token.
        rstrip: the match includes whitespace after the token.
        single_word: the token does not match inside a word.
        normalized: the token is searched in the text that tokens without this flag leave.
    """

    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


PLAIN = TokenFlags()


@dataclass(frozen=True)
class Segment:
    """A part of a text, ``start`` to ``end`` (exclusive): ordinary text, or an added token with its whitespace."""

    start: int
    end: int
    id: int | None = None


class Literals:
    """Search for several texts in another: leftmost first, then the longest at that place; matches do not overlap."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = frozenset(texts)
        lengths = dict[str, set[int]]()
        for text in self._texts:
            lengths.setdefault(text[0], set()).add(len(text))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        self._firsts = re.compile(f"[{''.join(map(re.escape, sorted(lengths)))}]" if lengths else "(?!)")

    def find(self, text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) of the matches in ``text[start:end]``, in order."""
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
    """Splitter of texts at added tokens.

    Args:
        special_tokens: id by text.
        words: id by text of added tokens that are not special.
        flags: flags of both, by text; tokens not listed have none.
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
        """Split a text into ordinary parts and added tokens. Special tokens match only if ``special``."""
        return self._cut(text, 0, len(text), self._with_special if special else self._words_only, special)

    def _cut(self, text: str, start: int, end: int, passes: Sequence[Literals], special: bool) -> Iterator[Segment]:
        """Yield the segments of ``text[start:end]``. Each pass searches the text that earlier passes leave."""
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
            if begin < at:  # the previous match includes the beginning of this one
                continue
            yield from self._cut(text, at, begin, passes[1:], special)
            yield Segment(begin, stop, self._ids[token])
            at = stop
        yield from self._cut(text, at, end, passes[1:], special)
