"""The cloud's log for its provider: one line per event on stderr, as logfmt.

    time=2026-11-26T08:13:53.123Z level=info event=session_ended session=17 why=closed seconds=4.2 tokens=39

A value that is not a plain word is a JSON string: in quotes, in ASCII, without control characters. A line never
contains text that a person wrote, or values that a peer chose: no prompt, reply, run id, key or address of a peer. The
code that logs an event must ensure that.

Logging never blocks. Lines are dropped if stderr is full, or beyond :data:`MOST_LINES` of one event. The log reports
how many were dropped.

Knows: events, stderr, the clock. Does not know: the meaning of events.
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
MOST_LINES = 100  # maximum lines of one event within WINDOW_S: a peer cannot make the log grow by more than some kB/s
WINDOW_S = 10.0
MAX_LINE_BYTES = select.PIPE_BUF  # a ready pipe takes up to so many bytes in one write
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")  # printable ASCII except blanks, quotes, = and \

Value = str | int | float


@dataclass
class _Window:
    level: str
    began: float  # monotonic seconds
    lines: int = 0
    left_out: int = 0


class EventLog:
    """Log on stderr, which any thread may use.

    Args:
        level: the lowest level that is logged, one of :data:`LEVELS`.
        clock: monotonic seconds.
    """

    def __init__(self, level: str = "info", clock: Callable[[], float] = time.monotonic) -> None:
        self._levels = LEVELS[LEVELS.index(level) :]
        self._clock = clock
        self._windows = dict[str, _Window]()  # by event
        self._lock = threading.Lock()

    def info(self, event: str, **fields: Value) -> None:
        """Log an ordinary event."""
        self._tell("info", event, fields)

    def warning(self, event: str, **fields: Value) -> None:
        """Log a condition that the provider may want to change."""
        self._tell("warning", event, fields)

    def error(self, event: str, **fields: Value) -> None:
        """Log a fault that no peer caused."""
        self._tell("error", event, fields)

    def catch_up(self, *, at_once: bool = False) -> None:
        """Log the number of dropped lines of each event whose window has passed, or with ``at_once`` of all events."""
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
    """Return the line of one event, without a line end. The names of ``fields`` must be plain words."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    said = {"time": now, "level": level, "event": event, **fields}
    return " ".join(f"{name}={_quoted(str(value))}" for name, value in said.items())


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    return json.dumps(text)


def _written(line: str) -> bool:
    """Write a line to stderr, or return False if that would block. Returns True also if stderr is closed or broken."""
    if sys.stderr is None:  # closed: file descriptor 2 may belong to the record by now
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
