r"""Which characters a screen may get and which of them show anything: classes of those, and texts without them.

A class is a part of a regular expression, to stand between ``[`` and ``]``. They are few and named, because each place
forbids others: a sheet's text may turn its direction as right-to-left writing needs it, a title may not; a reply may
have lines, a product's name may not.

Knows nothing about: what a text is for.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

CONTROLS = r"\x00-\x1f\x7f-\x9f"  # they move the cursor, or rewrite what a screen shows; among them tab and line's end
LINE_ENDS = r"\u2028\u2029"
TURNS = r"\u202a-\u202e\u2066-\u2069"  # they turn the direction of writing, and could show a text as another
DIRECTION_MARKS = r"\u200e\u200f"  # right-to-left text may need them
ARABIC_MARK = r"\u061c"  # likewise
SURROGATES = r"\ud800-\udfff"  # halves of pairs, which no encoding writes
NOT_IN_LINKS = r"\x00-\x20\x7f-\xa0\"<>\\^`{|}"  # what would end a link, or take it apart

_NOT_SHOWN = re.compile(rf"(?![\n\t])[{CONTROLS}{TURNS}]")
_NOT_SHOWN_CODES = [code for code in range(0x2070) if _NOT_SHOWN.match(chr(code))]
_LEFT_OUT = dict.fromkeys(_NOT_SHOWN_CODES)
_AS_NUMBERS = {code: f"\\u{code:04x}" for code in _NOT_SHOWN_CODES}

# What shows nothing, besides white space, control and format characters: Unicode's Default_Ignorable_Code_Point
# (DerivedCoreProperties.txt), the blank pattern of Braille, the note head that is none.
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
    """Take out what a screen would obey; tabs and lines' ends stay."""
    return text.translate(_LEFT_OUT)


def escaped(json: str) -> str:
    """Write such characters of a JSON text as numbers: the same to a program, and nothing to a screen."""
    return json.translate(_AS_NUMBERS)


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
