"""The profile's file on this device: it is replaced as a whole, or words are added to it.

Knows: the file. Does not know: screens, runs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from llama.disk import replace_file
from llama.errors import ProfileError
from llama.privacy.profile import read_raw
from llama.privacy.profile_edit import with_private_words


def write_profile(profile_file: str, raw: bytes, *, keep_mode: bool = False) -> None:
    """Replace the whole file.

    Args:
        profile_file: its path.
        raw: the new file.
        keep_mode: it keeps its mode; otherwise only its owner may read and write it.

    Raises:
        ProfileError: it is read-only or cannot be written, and is unchanged.
    """
    path = Path(profile_file)
    if path.exists() and not os.access(path, os.W_OK):  # a rename would replace it all the same
        raise ProfileError(f"profile {profile_file}: read-only; make it writable to change it here")
    try:
        replace_file(path, raw, keep_mode=keep_mode)
    except OSError as err:
        raise ProfileError(f"profile {profile_file}: cannot be written ({err.strerror})") from None


def add_private_words(profile_file: str, words: Sequence[str]) -> None:
    """Add words to the profile, which become tags from now on. The file keeps its comments, order and mode.

    Raises:
        ProfileError: the file cannot be read, edited or written, and is unchanged.
    """
    raw = read_raw(profile_file)
    edited = with_private_words(raw, words, f"profile {profile_file}")
    if edited != raw:
        write_profile(profile_file, edited, keep_mode=True)
