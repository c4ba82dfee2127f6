"""Detection of replies that quote the provider's system prompt.

A third party's sheet is wrapped in that prompt, and a model can be made to recite it. Best effort: a paraphrase, a
translation or a spelled-out version is not detected.

Does not know: deliveries, sheets.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator

import regex

from llama.tokenizer import Tokenizer

WINDOW = 8  # consecutive tokens of the system prompt
MIN_LETTERS = 28  # of a window compared without spaces: no ordinary phrase is that long by chance
MOST_TOKENS = 256  # of such a window; where letters are rarer, the prompt is a table of numbers
_BEGINNING = 12  # letters of a window used as its index
_WORD = re.compile(r"[^\W\d_]{3,}")  # a window without a word is a number, a rule or a bullet, and not a quotation
_LETTER = re.compile(rb"[A-Za-z\x80-\xff]")  # a byte of a letter
_BETWEEN_WORDS = re.compile(r"<[^<>]{1,80}>|%[0-9A-Fa-f]{2}|\\[nrt]|[\W\d_]")  # markup, links, JSON, numbering


_MARKS = regex.compile(r"(?<=\p{M}{30})\p{M}+")


class SystemPrompt:
    """The provider's system prompt, prepared for detection.

    Args:
        text: the prompt. One with fewer than :data:`WINDOW` tokens is never detected.
        tokenizer: the model's.
    """

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        pieces = [tokenizer.token_bytes(token) for token in tokenizer.encode(text, bos=False, eos=False)]
        in_word_form, in_letter_form = dict[str, None](), dict[str, None]()
        following = [len(pieces) + 1] * (len(pieces) + 1)  # by index: after the next piece that may hold a letter
        for place in reversed(range(len(pieces))):
            following[place] = place + 1 if _LETTER.search(pieces[place]) else following[place + 1]
        for start in range(len(pieces) - WINDOW + 1):
            end = start + WINDOW
            # A window may begin or end inside a character. Eight tokens beside it contain a complete one.
            before, window, after = (
                b"".join(part).decode(errors="ignore")
                for part in (pieces[max(0, start - 8) : start], pieces[start:end], pieces[end : end + 8])
            )
            if _WORD.search(window):
                left = (
                    "" if before[-1:].isalnum() and window[:1].isalnum() else " "
                )  # otherwise it begins inside a word
                right = "" if after[:1].isalnum() and window[-1:].isalnum() else " "
                in_word_form[f"{left}{in_words(window)}{right}"] = None
            while len(letters := in_letters(window)) < MIN_LETTERS:
                end = following[end]
                if end > min(len(pieces), start + MOST_TOKENS):
                    break
                window = b"".join(pieces[start:end]).decode(errors="ignore")
            if len(letters) >= MIN_LETTERS:
                in_letter_form[letters] = None
        self._in_words, self._in_letters = Windows(in_word_form), Windows(in_letter_form)

    def is_quoted_in(self, text: str, known: str) -> bool:
        """Return whether ``text`` has the words of any :data:`WINDOW` consecutive tokens of the prompt.

        Case and punctuation are ignored. From :data:`MIN_LETTERS` letters on, so is everything between the letters.

        Args:
            text: a reply.
            known: the vendor's own text, whose words are not counted. Otherwise a vendor could send a guess, and a
                withheld reply would confirm it. A guess in pieces, which the model is asked to join, still can, at one
                run per guess.
        """
        for windows, form in ((self._in_words, _padded), (self._in_letters, in_letters)):
            found = set(windows.found_in(form(text)))
            if found and not found <= set(windows.found_in(form(known))):
                return True
        return False


class Windows:
    """A set of short texts to search for in long ones.

    The search time does not grow with their number, nor with the number that have the same beginning. A reply may be as
    long as the context, and other runs wait for the run finisher meanwhile.

    Args:
        windows: the short texts; none is empty.
    """

    def __init__(self, windows: Iterable[str]) -> None:
        self._short = defaultdict[int, set[str]](set)  # by their length
        self._by_beginning = defaultdict[str, defaultdict[int, set[str]]](lambda: defaultdict(set))
        for window in windows:
            if len(window) < _BEGINNING:
                self._short[len(window)].add(window)
            else:
                self._by_beginning[window[:_BEGINNING]][len(window)].add(window)

    def found_in(self, text: str) -> Iterator[str]:
        """Yield the windows that are in ``text``, each once."""
        yield from dict.fromkeys(self._all_in(text))

    def _all_in(self, text: str) -> Iterator[str]:
        for length, windows in self._short.items():
            every = (text[start : start + length] for start in range(len(text) - length + 1))
            yield from (window for window in every if window in windows)
        for start in range(len(text) - _BEGINNING + 1) if self._by_beginning else ():
            for length, windows in self._by_beginning.get(text[start : start + _BEGINNING], {}).items():
                if (window := text[start : start + length]) in windows:
                    yield window


def in_words(text: str) -> str:
    """Return only the words of a text, in lower case with one space in between."""
    return " ".join(re.findall(r"[^\W_]+", _normal(text).casefold()))


def in_letters(text: str) -> str:
    """Return only the letters of a text, in lower case."""
    text = "".join(c for c in _normal(text) if unicodedata.category(c) != "Cf")
    return _BETWEEN_WORDS.sub("", text).casefold()


def _padded(text: str) -> str:
    return f" {in_words(text)} "


def _normal(text: str) -> str:
    """Return text in NFKC, in linear time: NFKC sorts the marks of a letter, so each letter keeps at most 30 of them.

    30 is the limit of a stream-safe text (Unicode Standard Annex #15, section 13). Real words have only a few.
    """
    return unicodedata.normalize("NFKC", _MARKS.sub("", text))
