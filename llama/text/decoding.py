"""How the bytes of a file that a person brings are read as text.

Knows nothing about: what a text is for.
"""

from __future__ import annotations

_OTHER_ENCODINGS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_MARK = "\ufeff"  # at a text's beginning the byte order mark, which says nothing in UTF-8


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
