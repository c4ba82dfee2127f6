"""The sink that is this process's stdout: a copy a line.

In a regular file a line is stored once the disk has it. What a pipe has taken is not stored: whoever reads it may end
before it has done anything with it.

Knows: file descriptors. Does not know: the cloud, who reads.
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
    """Lines that are really written.

    Not ``print``: it says nothing where stdout is closed, and what it buffers may fail only after the acknowledgement.

    Args:
        may_lose: a line counts as stored also where stdout is no file.

    Attributes:
        acknowledges: what was written is stored, or may be lost.

    Raises:
        UsageError: stdout is closed, or a file that is not appended to.
    """

    at_once = MAX_COLLECTED

    def __init__(self, *, may_lose: bool) -> None:
        if sys.stdout is None or starting.was_closed(1):
            raise UsageError("stdout is closed, and copies are printed there; give it a file or a pipe")
        self._fd = sys.stdout.fileno()
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self.acknowledges = self._is_file or may_lose
        if self._is_file and not may_lose and not fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_APPEND:
            raise UsageError(
                "stdout is a file that is written from its beginning, over what was acknowledged before; "
                "append to it: >> FILE"
            )
        # A line that an earlier run was killed in the middle of must not swallow the first one of ours.
        self._before = b"\n" if self._is_file and _ends_inside_a_line(self._fd) else b""

    def store(self, deliveries: Sequence[Delivery]) -> None:
        """Returns when all of them are written, and in a file are on the disk.

        Raises:
            SplitLlamaError: the file has been removed.
            OSError: not all of them are.
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
                "the file that copies are appended to has been removed; nothing more is "
                "acknowledged: start again, and use --spool where files are taken away"
            )

    def close(self) -> None:
        """Nothing to give back."""


def _ends_inside_a_line(fd: int) -> bool:
    """Whether a file has a last line without its end; where nobody may look, an empty line too many does no harm."""
    size = os.fstat(fd).st_size
    if not size:
        return False
    try:
        # The descriptor is most likely one that only writes.
        with open(f"/dev/fd/{fd}", "rb", buffering=0) as file:  # noqa: PTH123
            return os.pread(file.fileno(), 1, size - 1) != b"\n"
    except OSError:
        return True
