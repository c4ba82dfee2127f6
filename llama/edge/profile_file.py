"""The profile's file on this device: words are added to it.

Knows: the file. Does not know: screens, runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llama.disk import replace_file
from llama.errors import ProfileError
from llama.privacy.profile import read_raw
from llama.privacy.profile_edit import with_private_words


def add_private_words(profile_file: str, words: Sequence[str]) -> None:
    """Add words to the profile, which become tags from now on. The file keeps its comments, order and mode.

    Raises:
        ProfileError: the file cannot be read, edited or written, and is unchanged.
    """
    where = f"profile {profile_file}"
    raw = read_raw(profile_file)
    edited = with_private_words(raw, words, where)
    if edited == raw:
        return
    try:
        replace_file(Path(profile_file), edited, keep_mode=True)
    except OSError as err:
        raise ProfileError(f"{where}: cannot be written ({err.strerror})") from None
