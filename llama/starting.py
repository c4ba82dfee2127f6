"""What every program does before anything else: Ctrl-C ends it quietly, and its three standard streams can be used.

A program may be started with any of the streams closed. The next file that it opens would then get the number 0, 1 or
2, and a line that is printed would be written into that file; and Python itself would print to stdout what is meant for
a closed stderr. So what is closed is opened on the null device, first of all.

A stream's encoding may lack characters, whether of a path or of our own sentences: they are escaped. Nobody need be
reading stderr: what cannot be written there is dropped. A pipe that is full is waited for, also one that a parent has
left non-blocking.

Knows: file descriptors, text encodings. Does not know: programs. Imports next to nothing, so that it comes first.
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from typing import TextIO

_closed = set[int]()  # of 0, 1 and 2, those that this process was started without
_MAY_FAIL = {"strict", "surrogateescape", "surrogatepass"}  # ways to treat a character that an encoding lacks


def begin() -> None:
    """To be called by a program before it imports anything large; ``llama.command.run`` takes over from there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback out of somebody's import
    if os.getpid() == 1:  # in a container: the system ignores what such a process has no handler for
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
    """Whether this process was started without that descriptor, so that what is written there reaches nobody."""
    return number in _closed


def _occupy(number: int) -> None:
    """Open something harmless, which gets ``number``: the least that is free. A child process has it, too."""
    try:
        os.open(os.devnull, os.O_RDWR)
    except OSError:  # as in a bare chroot; to write there fails, which is told as any output that fails
        os.open("/", os.O_RDONLY)
    os.set_inheritable(number, True)


class _Output(io.FileIO):
    """Waits for a reader who is slow, whether or not the descriptor does."""

    def write(self, data: object) -> int:
        """As ``FileIO.write``, but never None."""
        while (written := super().write(data)) is None:  # type: ignore[arg-type]
            select.select([], [self], [])
        return written


class _DroppingOutput(_Output):
    """What cannot be written is dropped: notices end no work."""

    def write(self, data: object) -> int:
        """As if all were written, where none is."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


def _text(raw: _Output, before: TextIO | None) -> TextIO:
    """A text stream in the encoding of the one that Python has made, which escapes the characters it lacks."""
    old = before if isinstance(before, io.TextIOWrapper) else None
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8" if old is None else old.encoding,
        errors="backslashreplace" if old is None or old.errors in _MAY_FAIL else old.errors,
        line_buffering=raw.fileno() == 2 or (old is not None and old.line_buffering),
        write_through=old is not None and old.write_through,
    )
