"""The sink that writes copies to this process's stdout, one per line.

In a regular file, a line counts as stored when it is on the disk. In a pipe, it does not count as stored: the reader
may end before it has used the line.

Knows: file descriptors. Does not know: the cloud, the reader.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from collections.abc import Sequence

from llama import starting
from llama.disk import fsync, write_all
from llama.errors import SplitLlamaError, UsageError
from llama.vendor.collector import line_of
from llama.wire import MAX_COLLECTED, Delivery


class StdoutSink:
    """Sink that writes lines to stdout and reports failures.

    It does not use ``print``, which ignores a closed stdout, and whose buffer may fail only after the acknowledgement.

    Args:
        may_lose: a line counts as stored even if stdout is not a file.

    Attributes:
        acknowledges: written lines are stored, or may be lost.

    Raises:
        UsageError: stdout is closed, or is a file that is not opened for appending.
    """

    at_once = MAX_COLLECTED

    def __init__(self, *, may_lose: bool) -> None:
        if sys.stdout is None or starting.was_closed(1):
            raise UsageError("stdout is closed, but copies are printed there; redirect it to a file or a pipe")
        self._fd = sys.stdout.fileno()
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self.acknowledges = self._is_file or may_lose
        if self._is_file and not may_lose and not fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_APPEND:
            raise UsageError(
                "stdout is a file that each start overwrites, and copies in it would be lost; append with >> FILE, "
                "or pipe into cat to look at copies without acknowledging them"
            )
        # An earlier run may have been killed in the middle of a line; our first line must not be appended to it.
        self._before = b"\n" if self._is_file and _ends_inside_a_line(self._fd) else b""

    def store(self, deliveries: Sequence[Delivery]) -> None:
        """Write all copies, and return when they are written (in a file: when they are on the disk).

        Raises:
            SplitLlamaError: the file has been removed.
            OSError: not all of them are written.
        """
        self._check_has_a_name()
        write_all(self._fd, self._before + b"".join(map(line_of, deliveries)))
        self._before = b""
        if self._is_file:
            fsync(self._fd)
            self._check_has_a_name()

    def _check_has_a_name(self) -> None:
        if self._is_file and not os.fstat(self._fd).st_nlink:
            raise SplitLlamaError(
                "the file that copies are appended to has been removed; no more copies are "
                "acknowledged; start again, and use --spool if another program takes the files"
            )

    def close(self) -> None:
        """Do nothing; this sink holds no resources."""


def _ends_inside_a_line(fd: int) -> bool:
    """Return whether a file's last line has no end. Return True for an unreadable file: an empty line does no harm."""
    size = os.fstat(fd).st_size
    if not size:
        return False
    try:
        # The descriptor is most likely one that only writes.
        with open(f"/dev/fd/{fd}", "rb", buffering=0) as file:  # noqa: PTH123
            return os.pread(file.fileno(), 1, size - 1) != b"\n"
    except OSError:
        return True
