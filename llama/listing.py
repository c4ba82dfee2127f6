"""Listing of a directory: the files with the right ending, without the files that other programs leave there.

A name that begins with a dot is hidden: Kubernetes' ``..data`` and ``..2026_11_28_14_26_03.1``, ``.git``, a Mac's
``._birthday.toml``, editors' locks and backups. Hidden names are ignored, and so are names with another ending:
``README``, ``Thumbs.db``, ``birthday.toml~``, ``#birthday.toml#``. Every other name counts, even of a directory or
a dangling link, and the caller reports these. The ending counts in any case of letters. So ``BIRTHDAY.TOML`` is
reported, too.

A name with that ending may still be a copy that a program made, perhaps of an outdated file (:func:`is_a_copy`). It is
ignored as well, and the caller reports it.

Knows nothing about: what the files hold.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from pathlib import Path

from llama.text.names import NAME_CHARACTER

# Directories of file servers, archivers and version control: Synology's @eaDir, #recycle, $RECYCLE.BIN, __MACOSX,
# __pycache__; those that begin with a letter are listed by name.
_OTHERS = re.compile(r"[^0-9A-Za-z-].*|lost\+found|System Volume Information|CVS|RCS|SCCS", re.DOTALL)
_WASTE = re.compile(r"RECYCLER|Recycled|found\.[0-9]{3}|node_modules")  # may be intentional, so these are reported
# Word's ~$a, editors' #a; Windows' "a (1)", "a - Copy", Dropbox's "a (conflicted copy)", with brackets of any script;
# git mergetool's four; Syncthing's. Every name that this project gives begins with one of a-z, 0-9 and -.
_COPY = re.compile(
    r"\A[\W_](?<!-)|[\s()\[\]{}<>\uff08\uff09\u3010\u3011]|_(?:BACKUP|BASE|LOCAL|REMOTE)_[0-9]{1,20}\b|\.sync-conflict-"
)
PASSED_OVER = "ignored: the name looks like a copy that a program made; rename it to use it"
_ANYBODYS = re.compile(rf"{NAME_CHARACTER}+")  # a valid name of a sub-directory

Stamp = tuple[tuple[str, tuple[int, ...] | None], ...]


def is_hidden(name: str) -> bool:
    """Return whether a name is ignored, regardless of its ending."""
    return name.startswith(".")


def ends_in(name: str, suffix: str) -> bool:
    """Return whether a file has the ending by its name."""
    return not is_hidden(name) and name.lower().endswith(suffix) and len(name) > len(suffix)


def is_a_copy(name: str) -> bool:
    """Return whether a file or directory looks, by its name, like a copy that a program made of another."""
    return _COPY.search(name) is not None


def files_in(directory: Path, suffix: str, *, below: bool = False) -> list[Path]:
    """Return all files with the ending in a directory; with ``below``, also in its sub-directories.

    Links are followed. A sub-directory that cannot be listed is ignored only if its name is not a valid one.

    Raises:
        OSError: the directory, or a sub-directory, cannot be listed, or leads back to the directory.
    """
    found, below_it = list[Path](), list[Path]()
    with os.scandir(directory) as entries:
        for entry in entries:
            if ends_in(entry.name, suffix):
                if not is_a_copy(entry.name):
                    found.append(directory / entry.name)
            elif below and _may_be_meant(entry) and not _is_waste(entry.name):
                below_it.append(directory / entry.name)
    for sub_directory in below_it:
        try:
            if sub_directory.samefile(directory):  # its files would belong to two parties
                raise OSError(errno.ELOOP, "a link back to the directory itself", str(sub_directory))
            found += files_in(sub_directory, suffix)
        except FileNotFoundError:  # removed meanwhile
            continue
        except OSError:
            if _ANYBODYS.fullmatch(sub_directory.name):
                raise
    return found


def passed_over(directory: Path, suffix: str) -> list[Path]:
    """Return the names that :func:`files_in` ignores, with ``below``, although they may be intentional.

    They are copies, and directories for waste. A directory is named only if it has a file of that suffix. A
    sub-directory that cannot be listed is omitted.
    """
    copies, below_it = list[Path](), list[Path]()
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if ends_in(entry.name, suffix):
                if is_a_copy(entry.name):
                    copies.append(directory / entry.name)
            elif _may_be_meant(entry):
                below_it.append(directory / entry.name)
    for sub_directory in below_it:
        with suppress(OSError):
            names = [name for name in os.listdir(sub_directory) if ends_in(name, suffix)]  # noqa: PTH208
            if not _is_waste(sub_directory.name):
                copies += [sub_directory / name for name in names if is_a_copy(name)]
            elif names:
                copies.append(sub_directory)
    return sorted(copies)


def _is_waste(name: str) -> bool:
    return _WASTE.fullmatch(name) is not None or is_a_copy(name)


def _may_be_meant(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a directory, and not one of those that are ignored without a report."""
    return not is_hidden(entry.name) and not _OTHERS.fullmatch(entry.name) and _is_directory(entry)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for example
        return False


def stamp_of(directory: str | Path, suffix: str, *others: str) -> Stamp:
    """Return a stamp that changes if a file of these, or of ``others`` (by name), is replaced, written or created."""
    try:
        paths = sorted(files_in(Path(directory), suffix, below=True))
    except OSError:
        paths = []
    return tuple((str(path), _stamp(path)) for path in [*paths, *(Path(directory) / name for name in others)])


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        s = path.stat()
    except OSError:
        return None
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns
