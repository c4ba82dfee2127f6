"""What is written reaches the disk."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EROFS}  # said by file systems that have nothing to sync


def write_all(fd: int, content: bytes) -> None:
    """Write all of it to an open file.

    Raises:
        OSError: not all of it is written.
    """
    left = memoryview(content)
    while left:
        left = left[os.write(fd, left) :]


def sync(fd: int) -> None:
    """Returns when the disk has what was written to an open file, or the names in an open directory.

    At once on file systems that cannot say.

    Raises:
        OSError: the disk does not have it.
    """
    try:
        os.fsync(fd)
    except OSError as err:
        if err.errno not in _CANNOT_SYNC:
            raise


def settle(path: Path) -> None:
    """Returns when the disk has a file's content. Raises OSError."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def settle_names(directory: Path) -> None:
    """Returns when the disk has the names of the files in a directory, where its file system can say so."""
    with suppress(OSError):
        number = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
