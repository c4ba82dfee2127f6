"""The sink that writes a spool directory: one file per copy, for another program to take.

A file's name is ``RUN_ID.json``, with the run's id in hex. It has the copy as one line of JSON. The file appears whole
under that name, and is on the disk before the copy is acknowledged. The other program may move or remove files at any
time.

Knows: files. Does not know: the cloud, the other program.
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
    """Sink that writes files into a directory. It creates the directory if needed, and locks it while it runs.

    Args:
        directory: path of the directory.

    Raises:
        UsageError: the directory cannot be created or written to, or another process has locked it.
    """

    at_once = MAX_COLLECTED
    acknowledges = True

    def __init__(self, directory: str) -> None:
        self.directory = directory
        try:
            self._place = _opened(Path(directory))
        except BlockingIOError:
            raise UsageError(
                f"--spool {directory}: another llama.vendor writes there; give each program its own directory"
            ) from None
        except (OSError, ValueError) as err:
            reason = getattr(err, "strerror", None) or "not a path"
            raise UsageError(
                f"--spool {directory}: cannot be used ({reason}); give a directory that this user may "
                f"write to, or the name of a new one"
            ) from None

    def store(self, deliveries: Sequence[Delivery]) -> None:
        """Write a file for each copy, and return when all are on the disk.

        Raises:
            SplitLlamaError: a file cannot be written, or something else has its name.
        """
        try:
            for delivery in deliveries:
                self._write(f"{delivery.run_id.hex()}.json", line_of(delivery))
            fsync(self._place)
        except OSError as err:
            raise SplitLlamaError(
                f"--spool {self.directory}: a copy could not be written ({err.strerror}); it is not "
                f"acknowledged; correct the cause and start again"
            ) from None

    def close(self) -> None:
        """Unlock the directory for other processes."""
        os.close(self._place)

    def _write(self, name: str, content: bytes) -> None:
        """Write a file with that name, unless it exists already."""
        if not self._is_there(name, content):
            replace_file_in(self._place, name, content, 0o600)

    def _is_there(self, name: str, content: bytes) -> bool:
        """Return whether the file exists with this content. If so, make sure that it is on the disk.

        An earlier start may have written it and been killed before the acknowledgement.

        Raises:
            SplitLlamaError: something else has the name.
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
            f"--spool {self.directory}: {name} exists with other content and is not overwritten; "
            f"the copy is not acknowledged; move that file away and start again"
        )


def _opened(directory: Path) -> int:
    """Create the directory if needed, lock it, and remove the remains of a kill. Return its descriptor.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: it cannot be created or written to.
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
            os.unlink(UNFINISHED, dir_fd=place)  # left by a kill
    except BaseException:
        os.close(place)
        raise
    return place
