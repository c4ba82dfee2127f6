"""The allow list: who may speak to the cloud, by the public key files in one directory.

Knows: which files count, what has changed. Does not know: what is in a key's file, what its owner may ask for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from llama.errors import KeysError
from llama.keys import ERRNOS_FOR_NOW, Identity, UnreadableForNow, parse_public, read_key_file
from llama.listing import PASSED_OVER, ends_in, is_a_copy

LOOK_AGAIN_S = 1.0  # a file that was written over does not change its directory

_Stamp = tuple[int, int, int, int]
_NO_FILE: _Stamp = (0, 0, 0, 0)  # of a link to nothing, or where it cannot even be asked what is there


class AllowList:
    """Everybody whose public file lies in a directory, as it is now: ``*.pub``, whatever they are called before that.

    What is hidden or ends otherwise is passed over; so is what looks like a copy that a program made (a key that was
    taken off the list may live on in it), which is told of once. A file that is no public key, or repeats the
    name or the key of one before it, counts as absent and is told of once. A directory that cannot be read lists
    nobody. Links are followed, and looked at anew like the files that they name: Kubernetes swaps a link to a directory
    where a ConfigMap changes.

    Args:
        directory: where the files are.
        tell: told, in one line, of files that do not count.
        clock: monotonic seconds.

    Raises:
        KeysError: the directory cannot be read now.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        tell: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.directory = Path(directory)
        self.version = 0  # counts the changes
        self._tell, self._clock = tell, clock
        self._changed_at: int | None = None  # the directory's own time
        self._look_again = -1.0
        self._stamps: dict[str, _Stamp] | None = None
        self._unread = False  # a file that is to be read at the next look
        self._read: dict[str, tuple[_Stamp, Identity | str]] = {}  # what each file says, or why it does not count
        self._reported = set[tuple[str, str]]()
        self._listed: dict[str, Identity] = {}
        try:
            os.listdir(directory)  # noqa: PTH208
        except OSError as err:
            raise KeysError(f"--allow_dir {directory}: cannot be read ({err.strerror})") from None
        self.refresh()

    def __len__(self) -> int:
        return len(self._listed)

    @property
    def keys(self) -> frozenset[str]:
        """Those that are listed, as of the last look."""
        return frozenset(self._listed)

    def find(self, public: str) -> Identity | None:
        """Who has this key, if they are listed now."""
        self.refresh()
        return self._listed.get(public)

    def refresh(self) -> None:
        """Look whether the directory has changed; cheap when it has not."""
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
            # Whoever uses up this process's descriptors must not empty the list. That a file is gone, or is another
            # one, is seen without any.
            for_now = err.errno in ERRNOS_FOR_NOW
            stamps = self._stamps_now(self._stamps or ()) if for_now else {}
            self._say("", f"cannot be read ({err.strerror}): {'no new key' if for_now else 'nobody'} is listed")
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
                    stamps[name] = _NO_FILE  # whoever reads it will tell
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
                problems.add((file, f"{says}; it does not count"))
            elif says.role != "cloud":  # its own may lie there, too
                listed[says.public] = says
                names.add(says.name)
        if listed != self._listed:
            self.version += 1
        self._read, self._listed = read, listed
        self._reported &= problems  # what was mended and breaks again is told again
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
