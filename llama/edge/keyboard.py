"""Questions to the person at the terminal, and the answers that they type.

Knows: terminals, descriptors. Does not know: the subject of a question.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import termios
from contextlib import suppress
from typing import TextIO

from llama.disk import write_all
from llama.text.printable import printable


def is_there() -> bool:
    """Return whether a person can see a question and answer it."""
    return sys.stdin is not None and sys.stdin.isatty() and _may_be_seen(sys.stderr)


def ask(question: str) -> bool | None:
    """Return the person's yes or no, or None without a keyboard or if the question cannot be shown.

    Input that was typed before the question appeared is discarded.
    """
    line = _answer(f"{printable(question)} [y/N] ")
    return None if line is None else line.strip().casefold() in ("y", "yes", "ya")


def ask_line(question: str) -> str | None:
    """Return the line that the person types, without its end, or None without a keyboard or at the end of input.

    Input that was typed before the question appeared is discarded.
    """
    line = _answer(printable(question))
    return None if not line else line.strip()


def _answer(question: str) -> str | None:
    """Return the typed line with its end; empty at the end of input; None if no person can answer."""
    if not is_there():
        return None
    with suppress(OSError, termios.error):
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
    try:
        _show(question, sys.stderr)
    except OSError:
        return None
    return _typed_line(sys.stdin.fileno())


def _may_be_seen(stream: TextIO) -> bool:
    """Return whether a person may read the stream now. They read a file too late, and the null device never."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):  # the stream is not a file
        return True
    return stream.isatty() or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _show(text: str, stream: TextIO) -> None:
    """Write to the file behind a stream, because the stream itself may drop text that it cannot write.

    Raises:
        OSError: part of the text is not written.
    """
    stream.flush()
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # the stream is not a file
        stream.write(text)
        return
    write_all(number, text.encode(stream.encoding, "backslashreplace"))


def _typed_line(keyboard: int) -> str | None:
    """Read a typed line. Return None if the terminal is gone.

    Read without Python's buffers. They cannot handle a terminal that ends a line with a carriage return (a program left
    it raw), or one that does not wait (a parent left it non-blocking).
    """
    typed = b""
    while not typed.endswith((b"\n", b"\r")):
        try:
            more = os.read(keyboard, 1)
        except BlockingIOError:
            select.select([keyboard], [], [])
            continue
        except OSError:
            return None
        if more in (b"", b"\x03", b"\x04"):  # end of file; Ctrl-C and Ctrl-D, if the terminal does not handle them
            return ""
        typed += more
    return typed.decode(errors="replace")
