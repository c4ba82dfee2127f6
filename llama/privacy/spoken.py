"""Numbers in words: *two and a half thousand*, *3 juta tujuh ratus lima puluh ribu*, *nineteen ninety-one*.

Knows nothing about: values, tags, sheets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llama.text.money import SCALES, number_of

MAX_WORDS = 16  # words of one amount

_SMALL = {
    word: n
    for words in (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen",
        "nol satu dua tiga empat lima enam tujuh delapan sembilan sepuluh sebelas",
    )
    for n, word in enumerate(words.split())
} | {
    word: 10 * n
    for n, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2)
}
_ENGLISH_SCALES = ("thousand", "grand", "million", "billion", "lakh", "crore", "k")
_INDONESIAN_SCALES = ("ribu", "rb", "juta", "jt", "miliar", "milyar")
_SCALES = {word: SCALES[word] for word in (*_ENGLISH_SCALES, *_INDONESIAN_SCALES)}  # the scales that stand behind words
_ONE_OF = {"seratus": (1.0, "ratus"), "seribu": (1.0, "ribu"), "sejuta": (1.0, "juta"), "semiliar": (1.0, "miliar")}
_PARTS = {"half": 0.5, "quarter": 0.25, "setengah": 0.5, "seperempat": 0.25}
_TENS = {"belas", "puluh"}
_HUNDREDS = {"hundred", "ratus"}
_POINTS = {"point", "koma"}
_SAID = {*_SMALL, *_ONE_OF, *_PARTS, *_TENS, *_HUNDREDS}  # an amount in words has at least one of these
_WORDS = (*_SMALL, *_SCALES, *_ONE_OF, *_PARTS, *_TENS, *_HUNDREDS, *_POINTS)
_WORD = rf"(?:{'|'.join(sorted(_WORDS, key=len, reverse=True))})(?![^\W\d_])"
_FIGURE = r"(?<![\d.,])\d{1,15}(?:[.,]\d{1,3}){0,5}(?![\d.,]*\d)"  # bounded, or a long row of numbers would take long
_TOKEN = re.compile(rf"{_WORD}|{_FIGURE}")
_SPOKEN = re.compile(
    rf"(?<![^\W_])(?:{_WORD}|{_FIGURE})"
    rf"(?:(?:[^\S\n]|-){{0,2}}(?:(?:and|dan|an?|of)[^\S\n]){{0,3}}(?:{_WORD}|{_FIGURE})){{1,40}}(?![^\W_])"
    r"|(?<![^\W_])(?:sejuta|seribu)(?![^\W_])"
)


def spoken_amounts_in(line: str) -> Iterator[tuple[int, int, float]]:
    """Yield start, end and value of each amount that has at least one number in words.

    The words before an amount may be another number, so each of its words may be the first.
    """
    for m in _SPOKEN.finditer(line):
        tokens = list(_TOKEN.finditer(line, m.start(), m.end()))
        for i, first in enumerate(tokens[-MAX_WORDS:], start=max(0, len(tokens) - MAX_WORDS)):
            said = [token[0] for token in tokens[i:]]
            if not any(token in _SAID for token in said):
                break
            for j, token in enumerate(tokens[i:], start=1):
                if (
                    token[0] in _SCALES or token[0] in _ONE_OF or i + j == len(tokens)
                ):  # the words that follow may be another number
                    for value in _values(said[:j]):
                        yield first.start(), token.end(), value


_COUNT = rf"(?:{'|'.join(sorted((*_SMALL, *_TENS), key=len, reverse=True))})(?![^\W\d_])"
COUNTED = rf"{_COUNT}(?:[ -]{_COUNT}){{0,2}}"
"""A pattern for a number below a hundred, in words."""

_YEARS = re.compile(
    rf"(?<![^\W_])(?:(?P<century>nineteen|twenty|eighteen|sembilan belas)[ -](?P<of>{COUNTED})"
    rf"|(?P<whole>(?:seribu sembilan ratus|dua ribu|two thousand)(?: and)?(?: {COUNTED})?))(?![^\W_])"
)


def counted(words: str) -> int:
    """Return a number below a hundred: *thirty-eight*, *tiga puluh lima*."""
    return int(max(_values(re.split(r"[ -]", words)), default=0))


def spoken_years_in(line: str) -> Iterator[tuple[int, int, int]]:
    """Yield start, end and year of each year in words."""
    for m in _YEARS.finditer(line):
        if m["whole"]:
            year = int(min(_values([word for word in re.split(r"[ -]", m["whole"]) if word != "and"]), default=0))
        else:
            year = 100 * counted(m["century"]) + counted(m["of"])
        if 1850 <= year <= 2100:
            yield m.start(), m.end(), year


def _values(tokens: list[str]) -> list[float]:
    """Return the sum of the words: none if figures cannot be read, two sums if thousands may be left unsaid."""
    total, here, unit, digits_after, scale = 0.0, 0.0, 0.0, 0, 0.0
    for token in tokens:
        if token in _ONE_OF:
            here, token = here + _ONE_OF[token][0], _ONE_OF[token][1]
        if token in _POINTS:
            digits_after = 1
        elif token in _SMALL:
            unit = float(_SMALL[token])
            if digits_after:
                here, digits_after = here + unit / 10**digits_after, digits_after + 1
            else:
                here += unit
        elif token in _TENS:  # dua belas, dua puluh
            here += 10 if token == "belas" else 9 * unit
        elif token in _HUNDREDS:
            here = 100 * (here or 1)
        elif token in _PARTS:
            if scale and not here:  # 12 juta setengah
                total += _PARTS[token] * scale
            else:
                here += _PARTS[token]
        elif token in _SCALES:
            scale = _SCALES[token]
            total, here, unit, digits_after = total + (here or 1) * scale, 0.0, 0.0, 0
        else:
            figure = number_of(token)
            if figure is None:
                return []
            here += figure
    return [total + here, *([total + here * scale / 1000] if scale >= 1e6 and 100 <= here < 1000 else [])]
