"""Durable and exclusive writing of files, on file systems of any kind.

A file reaches the disk, gets its name, and is not shared with another process meanwhile. Some file systems have no hard
links (FAT, exFAT, many a network share, Android's storage), no locks or no modes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import select
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CANNOT = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # errors for features that a file system lacks
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_CANNOT_SYNC = _CANNOT | {errno.EROFS}  # errors of file systems that have nothing to sync
# EPERM comes from Linux for FAT and others, EACCES from Android's policy, EMLINK from some network shares.
_CANNOT_LINK = _CANNOT | {errno.EPERM, errno.EACCES, errno.EMLINK}
UNFINISHED = ".unfinished"  # temporary name of replace_file_in
_AT_FDCWD, _NOREPLACE, _EXCL = -100, 1, 4  # Linux's linux/fs.h and fcntl.h; macOS's sys/stdio.h


def write_all(fd: int, content: bytes) -> None:
    """Write all of it to an open file, a pipe or a terminal. Wait for room even if a parent made it non-blocking.

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
    """Wait until the disk has the data of an open file, or the names in an open directory.

    Returns at once on file systems that do not support this.

    Raises:
        OSError: the disk does not have it.
    """
    try:
        os.fsync(fd)
    except OSError as err:
        if err.errno not in _CANNOT_SYNC:
            raise


def cure_of_writing(err: OSError) -> str:
    """Return the remedy for a failed write, if the disk is the reason; otherwise an empty text."""
    if err.errno in _NO_ROOM:
        return "free some room, or write to another disk"
    if err.errno == errno.EIO:
        return "the disk failed; check it, or write to another one"
    if err.errno == errno.EFBIG:
        return "raise the limit on file size (ulimit -f), or write to a file system that allows larger files"
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
    """Create an empty file that only its owner may read and write; a library, such as SQLite, then writes to it.

    Raises:
        FileExistsError: the path exists, even as a dangling link.
        OSError: the file cannot be created.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def create_file(path: Path, content: bytes, mode: int) -> None:
    """Write a new file, which appears under its name whole and outlasts a power cut.

    Args:
        path: must not exist.
        content: all of it.
        mode: as far as this process's umask allows it.

    Raises:
        FileExistsError: the path exists, and stays unchanged.
        OSError: the file cannot be written.
    """
    with temporary_name(path) as unfinished:
        _write_new(unfinished, content, mode)
        give_name(unfinished, path)
    fsync_directory(path.parent)


def replace_file(path: Path, content: bytes, *, keep_mode: bool = False) -> None:
    """Replace a file as a whole or not at all. Only its owner may read and write the new one.

    A link is followed: its target is replaced, and the link stays. The file outlasts a power cut.

    Args:
        path: of the file.
        content: all of it.
        keep_mode: the new file gets the mode of the old one, where there is one and the file system has modes.

    Raises:
        OSError: the file cannot be written there; the old file is unchanged.
    """
    path = path.resolve()
    with temporary_name(path) as unfinished:
        _write_new(unfinished, content, 0o600)
        if keep_mode:
            with suppress(OSError):
                unfinished.chmod(stat.S_IMODE(path.stat().st_mode))
        unfinished.replace(path)
    fsync_directory(path.parent)


def replace_file_in(directory: int, name: str, content: bytes, mode: int) -> None:
    """Replace a file in an open directory that no other process writes to. A link itself is replaced.

    This is like :func:`replace_file`. The temporary name is :data:`UNFINISHED`, so that a kill leaves at most one file
    and the next call removes it. The new name outlasts a power cut only after the caller has synced the directory.

    Args:
        directory: its descriptor.
        name: of a file in it.
        content: all of it.
        mode: as far as this process's umask allows it.

    Raises:
        OSError: the file cannot be written; the old file is unchanged.
    """
    with suppress(FileNotFoundError):
        os.unlink(UNFINISHED, dir_fd=directory)
    try:
        _write_new(UNFINISHED, content, mode, directory)
        os.rename(UNFINISHED, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):  # it would use room on a full disk
            os.unlink(UNFINISHED, dir_fd=directory)
        raise


def _write_new(path: str | Path, content: bytes, mode: int, directory: int | None = None) -> None:
    """Write a new file, and wait until the disk has it; ``path`` may be relative to an open directory."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, dir_fd=directory)
    try:
        write_all(fd, content)
        fsync(fd)
    finally:
        os.close(fd)


def replace_with(unfinished: Path, path: Path) -> None:
    """Rename a finished file from its temporary name to the name of the file that it replaces.

    Both names are in one directory. The content is on the disk before the rename, and the new name before the return.

    Raises:
        OSError: it cannot be done; both files are unchanged.
    """
    fsync_file(unfinished)
    unfinished.replace(path)
    fsync_directory(path.parent)


def give_name(unfinished: Path, path: Path) -> None:
    """Rename a finished file from its temporary name to its own name, in the same directory, which must be free.

    Raises:
        FileExistsError: the name exists; its file and the unfinished file are unchanged.
        OSError: there is another reason; likewise.
    """
    try:
        os.link(unfinished, path)  # unlike a rename, this replaces nothing
    except (OSError, AttributeError) as err:  # some builds of Python have no os.link
        if isinstance(err, OSError) and err.errno not in _CANNOT_LINK:
            raise
    else:
        unfinished.unlink()
        return
    if _renamed(unfinished, path):
        return
    create_empty(path)  # the rename then replaces our own empty file
    try:
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _renamed(unfinished: Path, path: Path) -> bool:
    """Rename without replacing, if the system supports that; return whether it was done.

    Raises:
        FileExistsError: the new name exists.
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
    except (OSError, TypeError):  # no suitable C library
        return False
    if failed and ctypes.get_errno() == errno.EEXIST:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    return not failed  # the other way reports any other problem


@contextmanager
def temporary_name(path: Path) -> Iterator[Path]:
    """Provide an unused name beside ``path``. At the end, delete its file if that was not renamed."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield unfinished
    finally:
        with suppress(OSError):
            unfinished.unlink()


def lock(fd: int) -> None:
    """Lock an open file or directory until it is closed, at the latest when this process ends.

    Some file systems have no locks, or none for directories. There this does nothing.

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
    """Set a mode without access for others. Where the file system keeps no modes, our own file stays unchanged.

    Raises:
        OSError: the mode cannot be set, and another user owns the file.
    """
    try:
        path.chmod(mode)
    except OSError:
        if path.stat().st_uid != os.geteuid():
            raise
