"""The sink that is a spool directory: a file per copy, for another program to take.

A file is named by its run, ``RUN_ID.json`` with the id in hex, and holds the copy as one line of JSON. It appears under
that name whole, and is on the disk before the copy is acknowledged. Whoever takes the files may move or remove them at
any time.

Knows: files. Does not know: the cloud, who takes the files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from llama.disk import UNFINISHED, fsync, lock, replace_file_in
from llama.errors import SplitLlamaError, UsageError
from llama.vendor.collector import line_of
from llama.wire import MAX_COLLECTED, Delivery


class SpoolSink:
    """A directory, made if it is not there; this process's alone as long as it runs.

    Args:
        directory: its path.

    Raises:
        UsageError: it cannot be made or written into, or another process has it.
    """

    at_once = MAX_COLLECTED
    acknowledges = True

    def __init__(self, directory: str) -> None:
        self.directory = directory
        try:
            self._place = _opened(Path(directory))
        except BlockingIOError:
            raise UsageError(f"--spool {directory}: another llama.vendor writes there; give each its own") from None
        except (OSError, ValueError) as err:
            reason = getattr(err, "strerror", None) or "not a path"
            raise UsageError(
                f"--spool {directory}: cannot be used ({reason}); give a directory that this user may "
                f"write into, or the name of a new one"
            ) from None

    def store(self, deliveries: Sequence[Delivery]) -> None:
        """Returns when each has its file on the disk.

        Raises:
            SplitLlamaError: the disk does not have one of them, or its name is taken by something else.
        """
        try:
            for delivery in deliveries:
                self._write(f"{delivery.run_id.hex()}.json", line_of(delivery))
            fsync(self._place)
        except OSError as err:
            raise SplitLlamaError(
                f"--spool {self.directory}: a copy could not be written ({err.strerror}); it is not "
                f"acknowledged: see to that, and start again"
            ) from None

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._place)

    def _write(self, name: str, content: bytes) -> None:
        """A file of that name, unless it is there already."""
        if not self._is_there(name, content):
            replace_file_in(self._place, name, content, 0o600)

    def _is_there(self, name: str, content: bytes) -> bool:
        """Whether an earlier start has written it, which was killed before the acknowledgement; on the disk, too.

        Raises:
            SplitLlamaError: something else has its name.
        """
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._place)
        except FileNotFoundError:
            return False
        except OSError as err:
            if err.errno not in (errno.ELOOP, errno.EACCES, errno.ENXIO):  # a link, not ours, a pipe or a socket
                raise
            raise self._taken(name) from None
        try:
            there = os.fstat(fd)
            if not stat.S_ISREG(there.st_mode) or there.st_size != len(content):
                raise self._taken(name)
            with open(fd, "rb", closefd=False) as file:
                if file.read() != content:
                    raise self._taken(name)
            fsync(fd)
        finally:
            os.close(fd)
        return True

    def _taken(self, name: str) -> SplitLlamaError:
        return SplitLlamaError(
            f"--spool {self.directory}: {name} is there with another content, and is not written "
            f"over; the copy is not acknowledged: move that file away, and start again"
        )


def _opened(directory: Path) -> int:
    """A directory, made if it is not there, locked, and without what a kill has left.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: it cannot be made or written into.
    """
    with contextlib.suppress(FileExistsError):
        directory.mkdir(0o700)
        above = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fsync(above)
        finally:
            os.close(above)
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        lock(place)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(UNFINISHED, dir_fd=place)  # a kill has left it
    except BaseException:
        os.close(place)
        raise
    return place
