"""Which connections there are, whose they are, and which have to go.

A process has only so many descriptors. A key gets :data:`MAX_PER_KEY` of them; and a connection over which nothing was
said for :data:`SILENT_S` is closed, since nobody can tell whose it is before it speaks. Its peer may connect anew.

libzmq says in its monitor that a descriptor was accepted or has gone, and with each message over which one it came. The
two are not in step, and numbers are used again: whatever was missed is put right by the connection's next message.

Bookkeeping only. Knows: descriptors as numbers, keys as names, the clock. Does not know: sockets.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

MAX_PER_KEY = 64
SILENT_S = 120.0  # a program that asks less often connects anew


class Connections:
    """All of one listening socket.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heard = OrderedDict[int, tuple[float, str]]()  # when last, and whose; who was heard longest ago is first
        self._number = Counter[str]()

    def __len__(self) -> int:
        return len(self._heard)

    def accepted(self, descriptor: int) -> None:
        """A new one; whose it is will be heard."""
        self.gone(descriptor)
        self._heard[descriptor] = self._clock(), ""

    def gone(self, descriptor: int) -> None:
        """It has ended."""
        _, owner = self._heard.pop(descriptor, (0.0, ""))
        if owner:
            self._number[owner] -= 1
            if not self._number[owner]:
                del self._number[owner]

    def heard(self, descriptor: int, owner: str) -> bool:
        """A message came; False where its owner has too many connections, and this one has to go."""
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
        """Those that have to go since nothing was said; each is given once."""
        oldest, silent = self._clock() - SILENT_S, list[int]()
        while self._heard:
            descriptor, (heard, _) = next(iter(self._heard.items()))
            if heard > oldest:
                break
            self.gone(descriptor)
            silent.append(descriptor)
        return silent
