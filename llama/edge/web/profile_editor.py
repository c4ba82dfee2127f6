"""Editor of the profile's file, for the page: read the file and replace it.

Knows: the file, versions of it. Does not know: events, runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llama.edge.pipeline import version_of
from llama.edge.profile_file import add_private_words, write_profile
from llama.edge.web.errors import Conflict
from llama.errors import ProfileError
from llama.privacy.profile import parse, read_raw
from llama.text.decoding import encoding_problem, without_marks

ABSENT = "absent"  # version of a profile's file that does not exist


class ProfileEditor:
    """Editor of a profile's file, if there is one. Only one thread may use it at a time."""

    def __init__(self, profile_file: str | None) -> None:
        self.profile_file = profile_file

    def read(self) -> tuple[str, str]:
        """Return the file's text, and its version, which :meth:`write` needs.

        Raises:
            ProfileError: no file was given, or it cannot be read.
        """
        path = self._path()
        if not path.exists():  # deleted meanwhile; write may create it again
            return "", ABSENT
        raw = read_raw(str(path))
        if problem := encoding_problem(raw):  # text with replacement characters would be saved that way
            raise ProfileError(f"profile {self.profile_file}: {problem}")
        return without_marks(raw.decode(errors="replace")), version_of(raw)

    def write(self, text: str, version: str) -> str:
        """Replace the whole file. Return its new version.

        Raises:
            Conflict: the file has changed since ``version`` was read.
            ProfileError: the text is not a profile, or cannot be written.
        """
        path = self._path()
        raw = text.replace("\r\n", "\n").encode(errors="replace")
        parse(raw)
        if self.read()[1] != version:
            raise Conflict("the file has changed since you opened it; load it again and repeat your edit")
        write_profile(str(path), raw)
        return version_of(raw)

    def add_private_words(self, words: Sequence[str]) -> None:
        """Add words to the profile, which become tags from now on.

        Raises:
            ProfileError: no file was given, or it cannot be read, edited or written.
        """
        add_private_words(str(self._path()), words)

    def _path(self) -> Path:
        if self.profile_file is None:
            raise ProfileError("the program has no profile; start it with --profile_file")
        return Path(self.profile_file)
