"""Files that are read whole: regular ones only, and never more than a bound.

A pipe or a device in place of a file is refused before it is opened: opening could wait, or reading never end.

Errors are ``OSError``s whose ``strerror`` can be shown unchanged. The module also has the functions that put a file's
content into one line of an error.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from llama.text.printable import one_line

MAX_JSON_VALUES = 2_000_000  # a vocabulary of 128,000 tokens and its merges have half as many
_SHOWN = 80  # characters
_SHOWN_BITS = 128  # of a whole number; larger ones take long to write out


class NotRegular(OSError):
    """The error for a pipe, a socket or a device."""


class StorageRefused(OSError):
    """The error for a file that cloud storage does not give; ``strerror`` is the kind of its error."""


class TooLarge(OSError):
    """The error for a file that is larger than a genuine one can be."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open the file for reading, without ever waiting.

    Raises:
        NotRegular: it is not a regular file.
        OSError: it is missing, a directory (``IsADirectoryError``) or unreadable.
    """
    check_regular(Path(path).stat().st_mode, path)  # check first: opening some devices has effects
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: PTH123, SIM115
    try:
        check_regular(os.fstat(file.fileno()).st_mode, path)  # the file may have been replaced meanwhile
    except OSError:
        file.close()
        raise
    return file


def not_a_path(text: str | Path) -> str:
    """Return why a text is probably not the intended path, and the remedy; empty if it may be one."""
    if re.match(r"\w{1,20}:/", str(text)):
        return "it is a URL; give a path on this machine"
    if str(text).startswith("~"):
        return "the shell expands ~ only at the beginning of a word; write the full path"
    return ""


def can_open() -> bool:
    """Return whether this process may open one more descriptor.

    Libraries report the lack of one as many different errors.
    """
    try:
        os.close(os.dup(0))
    except OSError as err:
        return err.errno not in (errno.EMFILE, errno.ENFILE)
    return True


def lies_there(path: Path) -> bool:
    """Return whether the path exists, even as a pipe or a dangling link."""
    return path.is_symlink() or path.exists()


def check_regular(mode: int, path: str | Path) -> None:
    """Refuse a file that is not regular, by its ``st_mode``; raises as :func:`open_regular`."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise NotRegular(errno.EINVAL, "it is not a regular file", str(path))


def read_regular(path: str | Path, most: int) -> bytes:
    """Return all bytes of a local file.

    Raises:
        TooLarge: there are more than ``most``.
        OSError: as :func:`open_regular`.
    """
    with open_regular(path) as file:
        return read_open(file, path, most)


def read_open(file: BinaryIO, path: str | Path, most: int) -> bytes:
    """Return all bytes of a file that :func:`open_regular` has opened.

    Raises:
        TooLarge: there are more than ``most``.
        OSError: it cannot be read.
    """
    if os.fstat(file.fileno()).st_size > most:
        raise _too_large(path, most)
    return _bounded(file.read(most + 1), path, most)


def read_json(path: str | Path, most: int) -> bytes:
    """Return the bytes of a JSON file, read as :func:`read_anywhere` does, without a byte order mark.

    The limit on values makes sure that the decoded text takes little memory.

    Raises:
        TooLarge: also if it has more than ``MAX_JSON_VALUES`` values, each of which takes some hundred bytes.
    """
    data = read_anywhere(path, most).removeprefix(codecs.BOM_UTF8)
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise TooLarge(errno.EFBIG, f"it has more than {MAX_JSON_VALUES} values, the limit for such a file")
    return data


def read_anywhere(path: str | Path, most: int) -> bytes:
    """Return all bytes of a local file, or of one in cloud storage (any that blobfile opens).

    Raises:
        StorageRefused: the cloud storage refuses.
        OSError: as :func:`read_regular`.
    """
    if "://" not in str(path):
        return read_regular(path, most)
    import blobfile  # imported here: it takes a tenth of a second, and few files are in cloud storage

    try:
        with blobfile.BlobFile(str(path), "rb") as file:
            return _bounded(file.read(most + 1), path, most)
    except blobfile.Error as err:
        raise StorageRefused(errno.EIO, type(err).__name__, str(path)) from err


def shown(value: object) -> str:
    """Return a name or value from a file for one line of an error: cut, and without characters that control a terminal.

    It is cut before any other processing. For a value that is neither text nor number, only the type is named.
    """
    match value:
        case str():
            text = value
        case None | bool() | float():
            text = str(value)
        case int() if value.bit_length() <= _SHOWN_BITS:
            text = str(value)
        case _:
            text = type(value).__name__
    cut = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return one_line(cut)


def quoted(value: object) -> str:
    """Return the same as :func:`shown`, with a text in quotation marks and with escapes for unprintable characters."""
    return shown(repr(value[: _SHOWN + 1]) if isinstance(value, str) else value)


def _bounded(data: bytes, path: str | Path, most: int) -> bytes:
    if len(data) > most:
        raise _too_large(path, most)
    return data


def _too_large(path: str | Path, most: int) -> TooLarge:
    size = f"{most >> 20} MiB" if most >= 1 << 20 else f"{most >> 10} KiB"
    return TooLarge(errno.EFBIG, f"it is larger than {size}, the limit for such a file", str(path))
