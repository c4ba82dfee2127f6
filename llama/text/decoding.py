"""Decoding of the bytes of a person's file into text.

Knows nothing about: what a text is for.
"""

from __future__ import annotations

_OTHER_ENCODINGS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_MARK = "\ufeff"  # the byte order mark at a text's beginning, which means nothing in UTF-8


def encoding_problem(head: bytes) -> str | None:
    """Return the problem of a file that begins with ``head``, if its byte order mark is not UTF-8's; otherwise None."""
    for mark, name in _OTHER_ENCODINGS:
        if head.startswith(mark):
            return f"not UTF-8 text but {name}, by its byte order mark; save it as UTF-8"
    return None


def decoded(raw: bytes) -> str:
    """Return the text of a file: UTF-8, without the byte order marks at its beginning.

    There may be several: some programs add theirs before an existing one.

    Raises:
        ValueError: the file has another encoding, or none. The message names it and what to do, and quotes nothing.
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
    """Return a text without the byte order marks at its beginning."""
    return text.lstrip(_MARK)
