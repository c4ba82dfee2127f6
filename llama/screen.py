"""Consoles of rich for any terminal, regardless of the size in the environment and of the characters it can write.

Knows: rich, terminals' sizes. Does not know: what is shown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO

from rich.console import Console, RenderableType

WITHOUT_A_SCREEN = 100  # columns of output into a file or a pipe
_LEAST, _MOST, _USUAL = 20, 1000, 80  # columns of a terminal; a narrower one wraps the layout for the least
_LINES = 25


def console(stream: TextIO) -> Console:
    """Return a console that writes to ``stream``: with colours if the terminal has them, and without markup in text.

    In an encoding other than UTF-8 it draws in ASCII.
    """
    screen = stream.isatty()
    return Console(
        file=stream,
        force_terminal=screen,
        width=_columns(stream, os.environ) if screen else WITHOUT_A_SCREEN,
        height=_LINES,
        markup=False,
        highlight=False,
        emoji=False,
    )


def has_bars(console: Console) -> bool:
    """Return whether a line can be redrawn."""
    return console.is_terminal and not console.is_dumb_terminal


def rendered(what: RenderableType, stream: TextIO) -> str:
    """Return the text that :func:`console` would write to ``stream``, without writing it."""
    made = console(stream)
    with made.capture() as capture:
        made.print(what)
    return capture.get()


def _columns(terminal: TextIO, environment: Mapping[str, str]) -> int:
    """Return the width of a terminal, from COLUMNS or the terminal itself.

    It is kept within bounds, beyond which rich would lay out for ever.
    """
    said = environment.get("COLUMNS", "")
    columns = int(said) if said.isascii() and said.isdecimal() and len(said) < 10 else 0
    try:
        columns = columns or os.get_terminal_size(terminal.fileno()).columns
    except (OSError, ValueError):
        pass
    return max(_LEAST, min(columns or _USUAL, _MOST))
