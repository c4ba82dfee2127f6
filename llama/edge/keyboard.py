"""Asks the person at the terminal a question, and reads what they type.

Knows: terminals, descriptors. Does not know: what is asked.
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
    """Tell whether somebody is there to answer, and sees what is asked."""
    return sys.stdin is not None and sys.stdin.isatty() and _may_be_seen(sys.stderr)


def ask(question: str) -> bool | None:
    """Return the person's yes or no; None where no keyboard is, or the question cannot be shown.

    What was typed before it was shown is no answer to it.
    """
    if not is_there():
        return None
    with suppress(OSError, termios.error):
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
    try:
        _show(f"{printable(question)} [y/N] ", sys.stderr)
    except OSError:
        return None
    line = _typed_line(sys.stdin.fileno())
    return None if line is None else line.strip().casefold() in ("y", "yes", "ya")


def _may_be_seen(stream: TextIO) -> bool:
    """Tell whether somebody may read along: what goes into a file, or nowhere, is not seen before it is too late."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):  # it is no file
        return True
    return stream.isatty() or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _show(text: str, stream: TextIO) -> None:
    """Write to a stream's own file: the stream itself may drop what cannot be written.

    Raises:
        OSError: not all of it is written.
    """
    stream.flush()
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # it is no file
        stream.write(text)
        return
    write_all(number, text.encode(stream.encoding, "backslashreplace"))


def _typed_line(keyboard: int) -> str | None:
    """Read what a person types, to the end of the line; None where the terminal is gone.

    Read without Python's buffers, which know no terminal that ends a line with a carriage return (one that a program
    has left raw), or that does not wait (one that a parent has left non-blocking).
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
        if more in (b"", b"\x03", b"\x04"):  # the end; Ctrl-C and Ctrl-D, where the terminal does not see to them
            return ""
        typed += more
    return typed.decode(errors="replace")
