"""Programs that a machine with Python and a shell may lack: without one, tests are skipped, or fail where CI is set.

Knows: their names, the packages that they come in. Does not know: what they are needed for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import pytest

PACKAGES = {"chromium": "chromium", "setpriv": "util-linux", "unshare": "util-linux"}  # by program, as Debian has them
IS_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")


def needed(program: str) -> str:
    """Where a program is. Without it, whoever asks is skipped; where CI is set, it fails."""
    path = shutil.which(program)
    if path is None:
        (pytest.fail if IS_CI else pytest.skip)(_is_missing(program))
    return path


def notices(outcomes: Sequence[str]) -> list[str]:
    """A line for each program that was missing, given what was said of the tests that were skipped or failed."""
    lines = []
    for program, package in PACKAGES.items():
        number = sum(_is_missing(program) in outcome for outcome in outcomes)
        if number:
            tests, were, them = ("1 test", "was", "it") if number == 1 else (f"{number} tests", "were", "them")
            befell = "failed" if IS_CI else f"{were} skipped"
            lines.append(f"{_is_missing(program)}, so {tests} {befell}; to run {them}: apt-get install {package}")
    return lines


def _is_missing(program: str) -> str:
    return f"{program} is missing on this machine"
