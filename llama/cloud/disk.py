"""Have what was written on the disk, so that it outlasts a power cut."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def settle(path: Path) -> None:
    """A file's content. Raises OSError."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def settle_names(directory: Path) -> None:
    """The names of the files in a directory, where its file system can."""
    with suppress(OSError):
        number = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
