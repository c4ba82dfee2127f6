"""Texts as people bring them: how a file's bytes are read, whether anything of a text can be seen, one shown as a line.

Knows nothing about: what a text is for.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

_OTHER_ENCODINGS = (
    (b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"),
)  # fmt: skip
_MARK = "\ufeff"  # at a text's beginning the byte order mark, which says nothing in UTF-8

# What shows nothing, besides white space, control and format characters: Unicode's Default_Ignorable_Code_Point
# (DerivedCoreProperties.txt), the blank pattern of Braille, the note head that is none.
_BLANK_RANGES = (
    (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2065, 0x2065), (0x2800, 0x2800),
    (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1D159, 0x1D159), (0xE0000, 0xE0FFF),
)  # fmt: skip
_BLANK_CATEGORIES = {"Cc", "Cf", "Zl", "Zp", "Zs"}


def encoding_problem(head: bytes) -> str | None:
    """What is wrong with a file that begins so, if its byte order mark is another encoding's than UTF-8's."""
    for mark, name in _OTHER_ENCODINGS:
        if head.startswith(mark):
            return f"not UTF-8 text but {name}, by its byte order mark; save it as UTF-8"
    return None


def decoded(raw: bytes) -> str:
    """The text of a file: UTF-8, without the byte order marks at its beginning.

    Some programs put theirs before one that is there.

    Raises:
        ValueError: it is of another encoding, or none; the message says which and what to do, and quotes nothing.
    """
    if problem := encoding_problem(raw):
        raise ValueError(problem)
    if b"\0" in raw:
        raise ValueError("holds NUL bytes, so it is binary or UTF-16; save it as UTF-8")
    try:
        return without_marks(raw.decode())
    except UnicodeDecodeError as err:
        raise ValueError(f"not UTF-8 text (byte {err.start}); save it as UTF-8") from None


def without_marks(text: str) -> str:
    """A text without the byte order marks at its beginning."""
    return text.lstrip(_MARK)


def one_line(text: str, instead: str = "?") -> str:
    """A text that may quote a file or a peer, for one line: it can neither add lines nor steer a terminal."""
    return "".join(char if char.isprintable() else instead for char in text)


def is_blank(text: str) -> bool:
    """Whether nothing of it can be seen: no character, or only white space and characters that show nothing."""
    return not text.strip() or all(map(_is_invisible, text))


@lru_cache(maxsize=4096)
def _is_invisible(char: str) -> bool:
    return (
        char.isspace()
        or unicodedata.category(char) in _BLANK_CATEGORIES
        or any(first <= ord(char) <= last for first, last in _BLANK_RANGES)
    )
