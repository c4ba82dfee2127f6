"""What of a directory counts: the files whose names end as they should, and nothing that other programs leave there.

Hidden is what begins with a dot: Kubernetes' ``..data`` and ``..2026_11_28_14_26_03.1``, ``.git``, a Mac's
``._birthday.toml``, editors' locks and backups. All hidden is passed over, and all that ends otherwise: ``README``,
``Thumbs.db``, ``birthday.toml~``, ``#birthday.toml#``. What has a name that counts does so whatever it is, so that a
directory or a link to nothing of such a name is told of by whoever reads it. The ending counts in any case of letters,
so that ``BIRTHDAY.TOML`` is told of, too.

A name with that ending may still be a copy that a program made, of a file that may long be another
(:func:`is_a_copy`): it is passed over as well, and whoever reads the directory tells of it.

Knows nothing about: what the files hold.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from pathlib import Path

from llama.text.names import NAME_CHARACTER

# What file servers, archivers and version control keep in a directory: Synology's @eaDir, #recycle, $RECYCLE.BIN,
# __MACOSX, __pycache__; and by name what begins with a letter.
_OTHERS = re.compile(r"[^0-9A-Za-z-].*|lost\+found|System Volume Information|CVS|RCS|SCCS", re.DOTALL)
_WASTE = re.compile(r"RECYCLER|Recycled|found\.[0-9]{3}|node_modules")  # these may be meant, so they are told of
# Word's ~$a, editors' #a; Windows' "a (1)", "a - Copy", Dropbox's "a (conflicted copy)", in any writing's brackets; git
# mergetool's four; Syncthing's. Every name that this project gives begins with one of a-z, 0-9 and -.
_COPY = re.compile(
    r"\A[\W_](?<!-)|[\s()\[\]{}<>\uff08\uff09\u3010\u3011]|_(?:BACKUP|BASE|LOCAL|REMOTE)_[0-9]{1,20}\b|\.sync-conflict-"
)
PASSED_OVER = "passed over: it looks like a copy that a program made; rename it if it is meant"
_ANYBODYS = re.compile(rf"{NAME_CHARACTER}+")  # a name that a sub-directory may have

Stamp = tuple[tuple[str, tuple[int, ...] | None], ...]


def is_hidden(name: str) -> bool:
    """Whether a name is passed over, whatever it ends in."""
    return name.startswith(".")


def ends_in(name: str, suffix: str) -> bool:
    """Whether a file is one by its name."""
    return not is_hidden(name) and name.lower().endswith(suffix) and len(name) > len(suffix)


def is_a_copy(name: str) -> bool:
    """Whether a file or directory looks, by its name, like a copy that a program made of another."""
    return _COPY.search(name) is not None


def files_in(directory: Path, suffix: str, *, below: bool = False) -> list[Path]:
    """All that is called so in a directory; with ``below``, also in its sub-directories.

    Links are followed. A sub-directory that cannot be listed is passed over only if its name could not be meant.

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
            if sub_directory.samefile(directory):  # its files would be another's, too
                raise OSError(errno.ELOOP, "a link back to the directory itself", str(sub_directory))
            found += files_in(sub_directory, suffix)
        except FileNotFoundError:  # taken away meanwhile
            continue
        except OSError:
            if _ANYBODYS.fullmatch(sub_directory.name):
                raise
    return found


def passed_over(directory: Path, suffix: str) -> list[Path]:
    """What :func:`files_in`, with ``below``, leaves out although it may be meant: copies, and where waste is kept.

    A directory is named only if it has a file of that suffix. What cannot be listed is left out.
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
    """Whether it is a directory, and not one of those that are passed over without a word."""
    return not is_hidden(entry.name) and not _OTHERS.fullmatch(entry.name) and _is_directory(entry)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for example
        return False


def stamp_of(directory: str | Path, suffix: str, *others: str) -> Stamp:
    """Another one if any of these files is another, is written or appears; and of ``others``, by name."""
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
