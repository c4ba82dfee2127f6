"""What is written reaches the disk, gets its name, and is nobody else's meanwhile; on file systems of any kind.

Some have no hard links (FAT, exFAT, many a network share, Android's storage), no locks or no modes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CANNOT = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # said of what a file system does not have
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_CANNOT_SYNC = _CANNOT | {errno.EROFS}  # said by file systems that have nothing to sync
# EPERM is Linux's word for FAT and others, EACCES that of Android's policy, EMLINK that of some network shares.
_CANNOT_LINK = _CANNOT | {errno.EPERM, errno.EACCES, errno.EMLINK}
UNFINISHED = ".unfinished"  # what replace_file_in is writing
_AT_FDCWD, _NOREPLACE, _EXCL = -100, 1, 4  # Linux's linux/fs.h and fcntl.h; macOS's sys/stdio.h


def write_all(fd: int, content: bytes) -> None:
    """Write all of it to an open file, a pipe or a terminal; waits for room also where a parent made it non-blocking.

    Raises:
        OSError: not all of it is written.
    """
    left = memoryview(content)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            select.select([], [fd], [])


def fsync(fd: int) -> None:
    """Wait until the disk has what was written to an open file, or the names in an open directory.

    Returns at once on file systems that cannot say.

    Raises:
        OSError: the disk does not have it.
    """
    try:
        os.fsync(fd)
    except OSError as err:
        if err.errno not in _CANNOT_SYNC:
            raise


def cure_of_writing(err: OSError) -> str:
    """What helps where something could not be written, if the disk is the reason; else nothing."""
    if err.errno in _NO_ROOM:
        return "free some room, or write to another disk"
    if err.errno == errno.EIO:
        return "the disk failed; look after it, or write to another one"
    if err.errno == errno.EFBIG:
        return "let this program write larger files (ulimit -f), or write to a file system that takes them"
    return ""


def fsync_file(path: Path) -> None:
    """Wait until the disk has a file's content. Raises OSError."""
    with path.open("rb") as file:
        fsync(file.fileno())


def fsync_directory(directory: Path | int) -> None:
    """Wait until the disk has the names of the files in a directory, by its path or open; never fails."""
    with suppress(OSError):
        if isinstance(directory, int):
            os.fsync(directory)
            return
        number = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def create_empty(path: Path) -> None:
    """Make an empty file that only its owner may read and write; a library, such as SQLite, then writes to it.

    Raises:
        FileExistsError: something is there, if only a link to nothing.
        OSError: it cannot be made.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def create_file(path: Path, content: bytes, mode: int) -> None:
    """Write a new file, which appears under its name whole and outlasts a power cut.

    Args:
        path: nothing may be there.
        content: all of it.
        mode: as far as this process's umask allows it.

    Raises:
        FileExistsError: something is there, and stays as it is.
        OSError: it cannot be written.
    """
    with temporary_name(path) as unfinished:
        _write_new(unfinished, content, mode)
        give_name(unfinished, path)
    fsync_directory(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in place of what is there, as a whole or not at all; only its owner may read and write it.

    A link is followed, so that what it names is replaced and it stays a link. The file outlasts a power cut.

    Raises:
        OSError: it cannot be written there; what was there is as it was.
    """
    path = path.resolve()
    with temporary_name(path) as unfinished:
        _write_new(unfinished, content, 0o600)
        unfinished.replace(path)
    fsync_directory(path.parent)


def replace_file_in(directory: int, name: str, content: bytes, mode: int) -> None:
    """As :func:`replace_file`, in an open directory that no other process writes to; a link itself is replaced.

    The temporary name is :data:`UNFINISHED`, so that a kill leaves one file at most and the next call takes it away.
    That the new name outlasts a power cut, too, is the caller's to wait for, with the directory.

    Args:
        directory: its descriptor.
        name: of a file in it.
        content: all of it.
        mode: as far as this process's umask allows it.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    with suppress(FileNotFoundError):
        os.unlink(UNFINISHED, dir_fd=directory)
    try:
        _write_new(UNFINISHED, content, mode, directory)
        os.rename(UNFINISHED, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):  # of a full disk it would take a part
            os.unlink(UNFINISHED, dir_fd=directory)
        raise


def _write_new(path: str | Path, content: bytes, mode: int, directory: int | None = None) -> None:
    """Write a file that is not there yet, and wait until the disk has it; ``path`` may begin at an open directory."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, dir_fd=directory)
    try:
        write_all(fd, content)
        fsync(fd)
    finally:
        os.close(fd)


def replace_with(unfinished: Path, path: Path) -> None:
    """Give a finished file, of a temporary name in the same directory, the name of what it replaces.

    It is on the disk before it has the name, and the name is when this returns.

    Raises:
        OSError: it cannot be done; both are as they were.
    """
    fsync_file(unfinished)
    unfinished.replace(path)
    fsync_directory(path.parent)


def give_name(unfinished: Path, path: Path) -> None:
    """Give a finished file, of a temporary name in the same directory, its own, which nothing else must have.

    Raises:
        FileExistsError: something has it, and is as it was; so is the unfinished file.
        OSError: likewise, for another reason.
    """
    try:
        os.link(unfinished, path)  # unlike a rename, it replaces nothing
    except (OSError, AttributeError) as err:  # some builds of Python have no os.link
        if isinstance(err, OSError) and err.errno not in _CANNOT_LINK:
            raise
    else:
        unfinished.unlink()
        return
    if _renamed(unfinished, path):
        return
    create_empty(path)  # then it replaces our own empty file
    try:
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _renamed(unfinished: Path, path: Path) -> bool:
    """Rename without replacing, where the system has that; whether it was done.

    Raises:
        FileExistsError: something has the name.
    """
    old, new = os.fsencode(unfinished), os.fsencode(path)
    try:
        system = ctypes.CDLL(None, use_errno=True)
        if hasattr(system, "renameat2"):
            failed = system.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _NOREPLACE)
        elif hasattr(system, "renamex_np"):
            failed = system.renamex_np(old, new, _EXCL)
        else:
            return False
    except (OSError, TypeError):  # no C library of that kind
        return False
    if failed and ctypes.get_errno() == errno.EEXIST:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    return not failed  # whatever else is wrong, the other way will tell


@contextmanager
def temporary_name(path: Path) -> Iterator[Path]:
    """A name beside ``path`` that nobody else has; what is there in the end, and was not renamed, goes."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield unfinished
    finally:
        with suppress(OSError):
            unfinished.unlink()


def lock(fd: int) -> None:
    """Lock an open file or directory until it is closed, at the latest when this process ends.

    Some file systems have no locks, or none for directories, and do without.

    Raises:
        BlockingIOError: another process has locked it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass


def keep_to_owner(path: Path, mode: int) -> None:
    """Set a mode that leaves others nothing. Where the file system keeps no modes, what is ours stays as it is.

    Raises:
        OSError: it cannot be set, and the file is somebody else's.
    """
    try:
        path.chmod(mode)
    except OSError:
        if path.stat().st_uid != os.geteuid():
            raise
