"""Reads and replaces the profile's file, for a page on which the person edits it.

Knows: the file, versions of it. Does not know: events, runs.
"""

from __future__ import annotations

from pathlib import Path

from llama.disk import replace_file
from llama.edge.pipeline import version_of
from llama.edge.web.errors import Conflict
from llama.errors import ProfileError
from llama.privacy.profile import parse, read_raw
from llama.text.decoding import encoding_problem, without_marks

ABSENT = "absent"  # version of a profile's file that is not there


class ProfileEditor:
    """Edits the file of a profile, if there is one; one thread at a time."""

    def __init__(self, profile_file: str | None) -> None:
        self.profile_file = profile_file

    def read(self) -> tuple[str, str]:
        """Give the file's text, and a version to give back when it is written.

        Raises:
            ProfileError: there is none, or it cannot be read.
        """
        path = self._path()
        if not path.exists():  # deleted meanwhile: it may be written anew
            return "", ABSENT
        raw = read_raw(str(path))
        if problem := encoding_problem(raw):  # shown as well as can be, it would be written back so
            raise ProfileError(f"profile {self.profile_file}: {problem}")
        return without_marks(raw.decode(errors="replace")), version_of(raw)

    def write(self, text: str, version: str) -> str:
        """Replace the file as a whole; give its new version.

        Raises:
            Conflict: the file has changed since ``version`` was read.
            ProfileError: the text is no profile, or cannot be written.
        """
        path = self._path()
        raw = text.replace("\r\n", "\n").encode(errors="replace")
        parse(raw)
        if self.read()[1] != version:
            raise Conflict("the file has changed meanwhile; close this, and edit it anew")
        try:
            replace_file(path, raw)
        except OSError as err:
            raise ProfileError(f"profile {self.profile_file}: cannot be written ({err.strerror})") from None
        return version_of(raw)

    def _path(self) -> Path:
        if self.profile_file is None:
            raise ProfileError("no profile was given; start the program with --profile_file")
        return Path(self.profile_file)
