"""What the cloud tells its provider while it runs: one line per event on stderr, as logfmt.

    time=2026-11-26T08:13:53.123Z level=info event=session_ended session=17 why=closed seconds=4.2 tokens=39

A value that is no plain word is a JSON string: in quotes, in ASCII, without a control character. Never in a line: what
somebody has written, or what a peer has chosen; no prompt, reply, run id, key or address of a peer. Whoever tells of
an event sees to that.

Nobody need be reading: a line that would have to wait for its reader, and what is more than :data:`MOST_LINES` of one
event, is left out, and how many were is logged.
"""

from __future__ import annotations

import json
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

LEVELS = ("info", "warning", "error")
MOST_LINES = 100  # of one event within WINDOW_S: whoever wants to fill the disk gets a few kB a second
WINDOW_S = 10.0
MAX_LINE_BYTES = select.PIPE_BUF  # of which a pipe that is ready takes all at once
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")  # printable ASCII but for blanks, quotes, = and \

Value = str | int | float


@dataclass
class _Window:
    level: str
    began: float  # monotonic seconds
    lines: int = 0
    left_out: int = 0


class EventLog:
    """Writes to stderr; any thread may tell.

    Args:
        level: the least that is logged: one of :data:`LEVELS`.
        clock: monotonic seconds.
    """

    def __init__(self, level: str = "info", clock: Callable[[], float] = time.monotonic) -> None:
        self._levels = LEVELS[LEVELS.index(level) :]
        self._clock = clock
        self._windows = dict[str, _Window]()  # by event
        self._lock = threading.Lock()

    def info(self, event: str, **fields: Value) -> None:
        """What happens every day."""
        self._tell("info", event, fields)

    def warning(self, event: str, **fields: Value) -> None:
        """What the provider may want to change."""
        self._tell("warning", event, fields)

    def error(self, event: str, **fields: Value) -> None:
        """What went wrong, by no peer's fault."""
        self._tell("error", event, fields)

    def catch_up(self, *, at_once: bool = False) -> None:
        """Tell how many lines were left out, of events whose window has passed, or of all."""
        with self._lock:
            now = self._clock()
            for event, window in self._windows.items():
                if not at_once and now - window.began < WINDOW_S:
                    continue
                fields: dict[str, Value] = {"of": event, "lines": window.left_out}
                if not window.left_out or _written(line_of(window.level, "left_out", fields)):
                    window.began, window.lines, window.left_out = now, 0, 0

    def _tell(self, level: str, event: str, fields: Mapping[str, Value]) -> None:
        if level not in self._levels:
            return
        self.catch_up()
        with self._lock:
            window = self._windows.setdefault(event, _Window(level, self._clock()))
            window.lines += 1
            if window.lines > MOST_LINES or not _written(line_of(level, event, fields)):
                window.left_out += 1


def line_of(level: str, event: str, fields: Mapping[str, Value]) -> str:
    """One event, without a line end; ``fields`` by names that are plain words."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    said = {"time": now, "level": level, "event": event, **fields}
    return " ".join(f"{name}={_quoted(str(value))}" for name, value in said.items())


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    return json.dumps(text)


def _written(line: str) -> bool:
    """False if it would have to wait; true also where nobody holds stderr any more."""
    if sys.stderr is None:  # closed: file descriptor 2 may be the record's by now
        return True
    try:
        fd, ready = sys.stderr.fileno(), select.poll()
        ready.register(fd, select.POLLOUT)
        if not ready.poll(0):
            return False
        os.write(fd, line.encode()[: MAX_LINE_BYTES - 1] + b"\n")
    except (OSError, ValueError):
        pass
    return True
