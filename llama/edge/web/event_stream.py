"""Numbers what happens, and keeps it for pages that subscribe; and says whether the program is to end.

Knows: lines of JSON, threads. Does not know: what an event means, HTTP.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from llama.client.link import Stopped
from llama.errors import MemoryCeilingReached

REMEMBERED_EVENTS = 4096  # a page that missed more looks at everything anew


class EventStream:
    """What happened, numbered, for pages that subscribe; any thread may use it.

    Attributes:
        last: the number of the last event.
        ended: no more will happen.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED_EVENTS)
        self._wakers: set[Callable[[], None]] = set()
        self.last = 0
        self.ended = False

    def end(self) -> None:
        """Let no more happen, and wake all subscribers; takes no lock, since a signal's handler may call it."""
        self.ended = True
        for wake in tuple(self._wakers):
            wake()

    def add(self, kind: str, **fields: Any) -> None:
        """Append an event, and wake all subscribers."""
        with self._lock:
            self.last += 1
            self._lines.append((self.last, msgspec.json.encode({"n": self.last, "type": kind, **fields}) + b"\n"))
            wakers = list(self._wakers)
        for wake in wakers:
            wake()

    def since(self, n: int) -> list[tuple[int, bytes]]:
        """Give all events after the n-th, each with its number.

        It is a single ``reset`` for a page that is too far behind, or of an earlier start of the program.
        """
        with self._lock:
            oldest = self._lines[0][0] if self._lines else self.last + 1
            if n > self.last or n + 1 < oldest:
                return [(self.last, msgspec.json.encode({"n": self.last, "type": "reset"}) + b"\n")]
            return [line for line in self._lines if line[0] > n]

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` after each event."""
        with self._lock:
            self._wakers.add(wake)

    def unsubscribe(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` no longer."""
        with self._lock:
            self._wakers.discard(wake)

    @property
    def has_subscribers(self) -> bool:
        """Whether a page is open."""
        return bool(self._wakers)


class Ending:
    """Whether the program is to end, which the end of its events says; and why, where it has failed.

    Attributes:
        failure: why the program has to end, where it has to.
    """

    def __init__(self, events: EventStream) -> None:
        self.events = events
        self.failure: MemoryCeilingReached | None = None

    def check(self) -> None:
        """Raise ``Stopped`` where the program is to end."""
        if self.events.ended:
            raise Stopped("the program ends")

    @contextmanager
    def under_the_ceiling(self) -> Iterator[None]:
        """End the program where the process comes to have more memory than it may."""
        try:
            yield
        except MemoryCeilingReached as err:
            self.failure = err
            self.events.end()
            raise
