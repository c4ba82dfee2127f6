"""The open connections and their owners, and the choice of connections to close.

A process has a limited number of descriptors. A key gets :data:`MAX_PER_KEY` of them. The router closes a connection
that has been silent for :data:`SILENT_S`, since its owner is unknown until it sends a message. Its peer may connect
again.

libzmq's monitor reports when a descriptor is accepted or closed, and each message carries the descriptor of its
connection. The two can arrive out of order, and the system reuses descriptors. The connection's next message corrects
an entry that is wrong because of that.

Bookkeeping only. Knows: descriptors as numbers, keys as names, the clock. Does not know: sockets.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

MAX_PER_KEY = 64
SILENT_S = 120.0  # a program that asks less often connects again each time


class Connections:
    """All connections of one listening socket.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heard = OrderedDict[int, tuple[float, str]]()  # time of the last message, and owner; oldest time first
        self._number = Counter[str]()

    def __len__(self) -> int:
        return len(self._heard)

    def accepted(self, descriptor: int) -> None:
        """Add a new connection. Its owner is unknown until its first message."""
        self.gone(descriptor)
        self._heard[descriptor] = self._clock(), ""

    def gone(self, descriptor: int) -> None:
        """Remove a connection that has ended."""
        _, owner = self._heard.pop(descriptor, (0.0, ""))
        if owner:
            self._number[owner] -= 1
            if not self._number[owner]:
                del self._number[owner]

    def heard(self, descriptor: int, owner: str) -> bool:
        """Record a message of a connection. Return False if its owner has too many, and this one must be closed."""
        before = self._heard.get(descriptor, (0.0, ""))[1]
        if owner != before:
            if owner and self._number[owner] >= MAX_PER_KEY:
                return False
            self.gone(descriptor)
            if owner:
                self._number[owner] += 1
        self._heard[descriptor] = self._clock(), owner
        self._heard.move_to_end(descriptor)
        return True

    def silent(self) -> list[int]:
        """Remove the connections that have been silent for ``SILENT_S``, and return their descriptors to close."""
        oldest, silent = self._clock() - SILENT_S, list[int]()
        while self._heard:
            descriptor, (heard, _) = next(iter(self._heard.items()))
            if heard > oldest:
                break
            self.gone(descriptor)
            silent.append(descriptor)
        return silent
