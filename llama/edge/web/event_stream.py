"""Numbered events for pages that subscribe, and the end of the program.

Knows: lines of JSON, threads. Does not know: the meaning of an event, HTTP.
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

REMEMBERED_EVENTS = 4096  # a page that missed more fetches the whole state again


class EventStream:
    """Numbered events for pages that subscribe. Any thread may use it.

    Attributes:
        last: the number of the last event.
        ended: no more events will come.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED_EVENTS)
        self._wakers: set[Callable[[], None]] = set()
        self.last = 0
        self.ended = False

    def end(self) -> None:
        """End the stream and wake all subscribers. Take no lock, because a signal handler may call this."""
        self.ended = True
        for wake in tuple(self._wakers):
            wake()

    def add(self, kind: str, **fields: Any) -> None:
        """Append an event and wake all subscribers."""
        with self._lock:
            self.last += 1
            self._lines.append((self.last, msgspec.json.encode({"n": self.last, "type": kind, **fields}) + b"\n"))
            wakers = list(self._wakers)
        for wake in wakers:
            wake()

    def since(self, n: int) -> list[tuple[int, bytes]]:
        """Return all events after the n-th, each with its number.

        A page that is too far behind, or that an earlier start of the program served, gets a single ``reset``.
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
        """Stop calling ``wake``."""
        with self._lock:
            self._wakers.discard(wake)

    @property
    def has_subscribers(self) -> bool:
        """True while a page is open."""
        return bool(self._wakers)


class Ending:
    """End of the program: it ends with its events. If it failed, the reason is here.

    Attributes:
        failure: the reason why the program must end, or None.
    """

    def __init__(self, events: EventStream) -> None:
        self.events = events
        self.failure: MemoryCeilingReached | None = None

    def check(self) -> None:
        """Raise ``Stopped`` if the program is ending."""
        if self.events.ended:
            raise Stopped("the program is ending")

    @contextmanager
    def under_the_ceiling(self) -> Iterator[None]:
        """End the program if the process exceeds its memory limit."""
        try:
            yield
        except MemoryCeilingReached as err:
            self.failure = err
            self.events.end()
            raise
