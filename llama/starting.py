"""First steps of every program: Ctrl-C ends it quietly, and its three standard streams can be used.

A program may be started with any of the streams closed. The next file that it opens would then get the number 0, 1 or
2, and a printed line would be written into that file. Python itself would print to stdout the text for a closed stderr.
So closed streams are opened on the null device, first of all.

A stream's encoding may lack characters, whether of a path or of our own sentences. They are escaped. A line that stderr
cannot take is dropped, since there may be no reader. Writing waits for a full pipe, even for one that a parent has left
non-blocking.

Knows: file descriptors, text encodings. Does not know: programs. Imports next to nothing, so that it comes first.
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from typing import TextIO

_closed = set[int]()  # those of 0, 1 and 2 that were closed at the start
_MAY_FAIL = {"strict", "surrogateescape", "surrogatepass"}  # handlers of a character that an encoding lacks


def begin() -> None:
    """Prepare the process. A program calls this before any large import; ``llama.command.run`` continues from there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback from an import
    if os.getpid() == 1:  # in a container: for process 1 the system ignores signals without a handler
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, lambda received, _: os._exit(128 + received))
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _closed.add(number)
            _occupy(number)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    else:
        sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stdout = _text(_Output(1, "wb", closefd=False), sys.stdout)
    sys.stderr = _text(_DroppingOutput(2, "wb", closefd=False), sys.stderr)


def was_closed(number: int) -> bool:
    """Return whether this process was started without that descriptor, so that output to it has no reader."""
    return number in _closed


def _occupy(number: int) -> None:
    """Open something harmless, which gets the least free number, ``number``. Child processes inherit it."""
    try:
        os.open(os.devnull, os.O_RDWR)
    except OSError:  # as in a bare chroot; writing there fails, and is reported like any failed output
        os.open("/", os.O_RDONLY)
    os.set_inheritable(number, True)


class _Output(io.FileIO):
    """An output that waits for a slow reader, even with a non-blocking descriptor."""

    def write(self, data: object) -> int:
        """Write as ``FileIO.write`` does, but never return None."""
        while (written := super().write(data)) is None:  # type: ignore[arg-type]
            select.select([], [self], [])
        return written


class _DroppingOutput(_Output):
    """An output that drops data it cannot write: notices never end the work."""

    def write(self, data: object) -> int:
        """Write the data, and return its full length even if nothing is written."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


def _text(raw: _Output, before: TextIO | None) -> TextIO:
    """Return a text stream in the encoding of Python's own stream, which escapes the characters it lacks."""
    old = before if isinstance(before, io.TextIOWrapper) else None
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8" if old is None else old.encoding,
        errors="backslashreplace" if old is None or old.errors in _MAY_FAIL else old.errors,
        line_buffering=raw.fileno() == 2 or (old is not None and old.line_buffering),
        write_through=old is not None and old.write_through,
    )
