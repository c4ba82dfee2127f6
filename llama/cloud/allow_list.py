"""The allow list: the public keys that may connect to the cloud, from the key files in one directory.

Knows: the files that count, their changes. Does not know: the format of a key file, the rights of a role.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from llama.errors import KeysError
from llama.keys import ERRNOS_FOR_NOW, Identity, UnreadableForNow, parse_public, read_key_file
from llama.listing import PASSED_OVER, ends_in, is_a_copy

LOOK_AGAIN_S = 1.0  # the files are checked this often: overwriting one does not change its directory's time

_Stamp = tuple[int, int, int, int]
_NO_FILE: _Stamp = (0, 0, 0, 0)  # stamp of a broken link, or of a file whose status cannot be read


class AllowList:
    """The identities in a directory's public key files, ``*.pub``, kept up to date.

    Hidden files and files with other endings are ignored. Files that look like a program's copy are ignored, too, since
    a key that you removed could remain in one; each is reported once. A file that is not a public key, or repeats the
    name or key of a file before it, is ignored and reported once. If the directory cannot be read, no key is listed.

    Links are followed and checked for changes like files. Kubernetes replaces a link to a directory when a ConfigMap
    changes.

    Args:
        directory: the directory of the key files.
        tell: gets one line about each ignored file that is to be reported.
        clock: monotonic seconds.

    Raises:
        KeysError: the directory cannot be read at the start.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        tell: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.directory = Path(directory)
        self.version = 0  # number of changes of the list
        self._tell, self._clock = tell, clock
        self._changed_at: int | None = None  # the directory's modification time
        self._look_again = -1.0
        self._stamps: dict[str, _Stamp] | None = None
        self._unread = False  # True if a file must be read again at the next check
        self._read: dict[str, tuple[_Stamp, Identity | str]] = {}  # each file's identity, or the reason to ignore it
        self._reported = set[tuple[str, str]]()
        self._listed: dict[str, Identity] = {}
        try:
            os.listdir(directory)  # noqa: PTH208
        except OSError as err:
            raise KeysError(
                f"--allow_dir {directory}: cannot be read ({err.strerror}); give a directory that you may read"
            ) from None
        self.refresh()

    def __len__(self) -> int:
        return len(self._listed)

    @property
    def keys(self) -> frozenset[str]:
        """The listed public keys, as of the last check."""
        return frozenset(self._listed)

    def find(self, public: str) -> Identity | None:
        """Return the identity of a public key, or None if the key is not listed now."""
        self.refresh()
        return self._listed.get(public)

    def refresh(self) -> None:
        """Check whether the directory has changed, and read it again if so. Cheap when it has not."""
        now = self._clock()
        try:
            changed_at: int | None = self.directory.stat().st_mtime_ns
        except OSError:
            changed_at = None
        if changed_at == self._changed_at and now < self._look_again:
            return
        self._changed_at, self._look_again = changed_at, now + LOOK_AGAIN_S
        try:
            stamps = self._stamps_now(os.listdir(self.directory))  # noqa: PTH208
        except OSError as err:
            # Peers that use up this process's descriptors must not empty the list. The stamps of the known files
            # need no descriptor, so removed and replaced files are still noticed.
            for_now = err.errno in ERRNOS_FOR_NOW
            stamps = self._stamps_now(self._stamps or ()) if for_now else {}
            self._say("", f"cannot be read ({err.strerror}), so {'no new key' if for_now else 'no key'} is listed")
        if stamps != self._stamps or self._unread:
            self._stamps, self._unread = stamps, False
            self._rescan(stamps)

    def _stamps_now(self, names: Iterable[str]) -> dict[str, _Stamp]:
        stamps = {}
        for name in names:
            if ends_in(name, ".pub"):
                path = self.directory / name
                try:
                    s = path.stat()
                except FileNotFoundError:
                    if path.is_symlink():
                        stamps[name] = _NO_FILE
                    continue  # else it was just removed
                except OSError:
                    stamps[name] = _NO_FILE  # reading it reports the problem
                    continue
                stamps[name] = (s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino)
        return stamps

    def _rescan(self, stamps: dict[str, _Stamp]) -> None:
        before, read = self._read, dict[str, tuple[_Stamp, Identity | str]]()
        listed, names = dict[str, Identity](), set[str]()
        problems = set[tuple[str, str]]()
        for file, stamp in sorted(stamps.items()):
            if is_a_copy(file):
                problems.add((file, PASSED_OVER))
                continue
            known = before.get(file)
            try:
                says = known[1] if known is not None and known[0] == stamp else self._says(file)
                read[file] = (stamp, says)
            except UnreadableForNow as err:
                says, self._unread = str(err), True
            if isinstance(says, Identity) and (says.public in listed or says.name in names):
                says = "another file has this name or key"
            if isinstance(says, str):
                problems.add((file, f"{says}; the file is ignored"))
            elif says.role != "cloud":  # the cloud's own public key may lie there, too
                listed[says.public] = says
                names.add(says.name)
        if listed != self._listed:
            self.version += 1
        self._read, self._listed = read, listed
        self._reported &= problems  # a problem that was solved and occurs again is reported again
        for file, problem in sorted(problems):
            self._say(file, problem)

    def _says(self, file: str) -> Identity | str:
        try:
            return parse_public(read_key_file(self.directory / file)[0])
        except UnreadableForNow:
            raise
        except ValueError as err:
            return str(err)

    def _say(self, file: str, problem: str) -> None:
        if (file, problem) not in self._reported:
            self._reported.add((file, problem))
            self._tell(f"--allow_dir: {file!r}: {problem}" if file else f"--allow_dir: {problem}")
