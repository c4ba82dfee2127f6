"""Consoles of rich's for any terminal: whatever the environment says of its size, and whatever it can write.

Knows: rich, terminals' sizes. Does not know: what is shown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO

from rich.console import Console, RenderableType

WITHOUT_A_SCREEN = 100  # columns of what goes into a file or a pipe
_LEAST, _MOST, _USUAL = 20, 1000, 80  # of a terminal; a narrower one wraps what is laid out for the least
_LINES = 25


def console(stream: TextIO) -> Console:
    """A console that writes to ``stream``: colours on a terminal that has them, and text is no markup.

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
    """Whether a line can be drawn over again."""
    return console.is_terminal and not console.is_dumb_terminal


def rendered(what: RenderableType, stream: TextIO) -> str:
    """What :func:`console` would write to ``stream``, which is left alone."""
    made = console(stream)
    with made.capture() as capture:
        made.print(what)
    return capture.get()


def _columns(terminal: TextIO, environment: Mapping[str, str]) -> int:
    """How wide a terminal is: as COLUMNS says, or as it says itself; within bounds, or rich lays out for ever."""
    said = environment.get("COLUMNS", "")
    columns = int(said) if said.isascii() and said.isdecimal() and len(said) < 10 else 0
    try:
        columns = columns or os.get_terminal_size(terminal.fileno()).columns
    except (OSError, ValueError):
        pass
    return max(_LEAST, min(columns or _USUAL, _MOST))
