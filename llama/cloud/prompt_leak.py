"""Whether a reply repeats the provider's own system prompt, word for word, at length.

A third party's sheet is wrapped in that prompt, and a model can be made to recite it. Best effort: a reply that says
the same in other words, in another language or spelled out is not recognised.

Knows nothing about: deliveries, sheets.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator

import regex

from llama.tokenizer import Tokenizer

WINDOW = 8  # consecutive tokens of the system prompt
MIN_LETTERS = 28  # of a window that is recognised without its spaces: no ordinary phrase is that long by chance
MOST_TOKENS = 256  # of such a window: where letters are rarer, the prompt is a table of numbers
_BEGINNING = 12  # letters of a window by which it is looked up
_WORD = re.compile(r"[^\W\d_]{3,}")  # a window without one is a number, a rule or a bullet, and no quotation
_LETTER = re.compile(rb"[A-Za-z\x80-\xff]")  # in bytes: of one, at least
_BETWEEN_WORDS = re.compile(r"<[^<>]{1,80}>|%[0-9A-Fa-f]{2}|\\[nrt]|[\W\d_]")  # markup, links, JSON, numbering


_MARKS = regex.compile(r"(?<=\p{M}{30})\p{M}+")


class SystemPrompt:
    """The provider's system prompt, to be recognised.

    Args:
        text: the prompt; an empty one, or one of fewer than :data:`WINDOW` tokens, is never recognised.
        tokenizer: the model's.
    """

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        pieces = [tokenizer.token_bytes(token) for token in tokenizer.encode(text, bos=False, eos=False)]
        in_word_form, in_letter_form = dict[str, None](), dict[str, None]()
        following = [len(pieces) + 1] * (len(pieces) + 1)  # by place: after the next piece that may hold a letter
        for place in reversed(range(len(pieces))):
            following[place] = place + 1 if _LETTER.search(pieces[place]) else following[place + 1]
        for start in range(len(pieces) - WINDOW + 1):
            end = start + WINDOW
            # A window may begin or end inside a character; eight tokens beside it hold a whole one.
            before, window, after = (
                b"".join(part).decode(errors="ignore")
                for part in (pieces[max(0, start - 8) : start], pieces[start:end], pieces[end : end + 8])
            )
            if _WORD.search(window):
                left = "" if before[-1:].isalnum() and window[:1].isalnum() else " "  # or it begins inside a word
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
        """Whether ``text`` has the words of any :data:`WINDOW` consecutive tokens, whatever their case and punctuation.

        Also, for those of :data:`MIN_LETTERS` letters and more, whatever stands between the words, or does not.

        Args:
            text: a reply.
            known: what its reader has written, whose words tell them nothing new. (Were they counted, whoever sends a
                guess would learn from a reply that is withheld that it was right. A guess in pieces, which the model is
                asked to join, still does so, at one run per guess.)
        """
        for windows, form in ((self._in_words, _padded), (self._in_letters, in_letters)):
            found = set(windows.found_in(form(text)))
            if found and not found <= set(windows.found_in(form(known))):
                return True
        return False


class Windows:
    """Short texts that are searched in long ones.

    The time that it takes does not grow with their number, nor with how many begin alike: a reply may be as long as the
    context is, and a search for each in turn keeps the run finisher, for which others wait, as many times.

    Args:
        windows: none is empty.
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
        """Those that are in ``text``, each once."""
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
    """Words in lower case with one space in between, and nothing else."""
    return " ".join(re.findall(r"[^\W_]+", _normal(text).casefold()))


def in_letters(text: str) -> str:
    """Letters in lower case, and nothing else."""
    text = "".join(c for c in _normal(text) if unicodedata.category(c) != "Cf")
    return _BETWEEN_WORDS.sub("", text).casefold()


def _padded(text: str) -> str:
    return f" {in_words(text)} "


def _normal(text: str) -> str:
    """NFKC, in time that grows with the text: normalising sorts the marks of a letter, so a letter keeps 30 of them.

    So many has a stream-safe text (Unicode Standard Annex #15, section 13); no word of a language has more than a few.
    """
    return unicodedata.normalize("NFKC", _MARKS.sub("", text))
