r"""Characters that a screen may get, and characters that are visible: classes of them, and texts without them.

A class is a part of a regular expression, to stand between ``[`` and ``]``. The classes are few and have names, because
each place forbids others. A sheet's text may change its direction as right-to-left writing needs it, but a title may
not. A reply may have lines, but a product's name may not.

Knows nothing about: what a text is for.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

CONTROLS = r"\x00-\x1f\x7f-\x9f"  # they move the cursor, or rewrite the screen; tab and line end are among them
LINE_ENDS = r"\u2028\u2029"
TURNS = r"\u202a-\u202e\u2066-\u2069"  # they change the direction of writing, and could disguise a text as another
DIRECTION_MARKS = r"\u200e\u200f"  # right-to-left text may need them
ARABIC_MARK = r"\u061c"  # likewise
SURROGATES = r"\ud800-\udfff"  # halves of pairs, which no encoding writes
NOT_IN_LINKS = r"\x00-\x20\x7f-\xa0\"<>\\^`{|}"  # characters that would end a link, or split it

_NOT_SHOWN = re.compile(rf"(?![\n\t])[{CONTROLS}{TURNS}]")
_NOT_SHOWN_CODES = [code for code in range(0x2070) if _NOT_SHOWN.match(chr(code))]
_LEFT_OUT = dict.fromkeys(_NOT_SHOWN_CODES)
_AS_NUMBERS = {code: f"\\u{code:04x}" for code in _NOT_SHOWN_CODES}

# Invisible besides white space, control and format characters: Unicode's Default_Ignorable_Code_Point
# (DerivedCoreProperties.txt), the blank pattern of Braille, the null note head.
_BLANK_RANGES = (
    (0x034F, 0x034F),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x2065, 0x2065),
    (0x2800, 0x2800),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1D159, 0x1D159),
    (0xE0000, 0xE0FFF),
)
_BLANK_CATEGORIES = {"Cc", "Cf", "Zl", "Zp", "Zs"}


def printable(text: str) -> str:
    """Remove characters that control a screen; tabs and line ends stay."""
    return text.translate(_LEFT_OUT)


def escaped(json: str) -> str:
    """Write such characters of a JSON text as numbers: the same to a program, and harmless on a screen."""
    return json.translate(_AS_NUMBERS)


def one_line(text: str, instead: str = "?") -> str:
    """Make a text safe for one line: it may quote a file or a peer, but cannot add lines or control a terminal."""
    return "".join(char if char.isprintable() else instead for char in text)


def is_blank(text: str) -> bool:
    """Return whether nothing of it is visible: it has no character, or only white space and invisible characters."""
    return not text.strip() or all(map(_is_invisible, text))


@lru_cache(maxsize=4096)
def _is_invisible(char: str) -> bool:
    return (
        char.isspace()
        or unicodedata.category(char) in _BLANK_CATEGORIES
        or any(first <= ord(char) <= last for first, last in _BLANK_RANGES)
    )
