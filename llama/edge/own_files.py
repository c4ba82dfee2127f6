"""The person's own files, replaced as a whole or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path

from llama.disk import sync


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, and rename it; it is readable and writable for its owner only.

    A link is followed, so that what it names is replaced and it stays a link.

    Raises:
        OSError: it cannot be written there; what was there is as it was.
    """
    path = path.resolve()
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            sync(file.fileno())
            Path(file.name).replace(path)  # mkstemp has made it for its owner only
        except BaseException:
            Path(file.name).unlink()
            raise
