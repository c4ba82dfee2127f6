"""Which steps go through the model together next.

Every session has at most one step that waits. Steps of one row that want the next id, *decoding*, share a forward pass:
reading the weights is what costs, and is paid once. Chunks of prompts take turns with them, one at a time, so nobody
who decodes waits longer than for one chunk.

Bookkeeping only. Knows: slots, positions, the clock. Does not know: tensors, sockets, who the sessions belong to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

# Share of a pass's own time that the next one waits for sessions that are about to come back: a device is done with a
# token in a fraction of the time that the cloud takes, and a pass without it costs nearly as much as one with it.
GATHERING_SHARE = 0.3
MOST_GATHERING_S = 0.02
# Rows that share a pass are read to the end of the longest, with the slots in between: what may be read in vain.
WASTE, FREE_WASTE = 4, 1024  # times what is needed, and positions


class Waiting(Protocol):
    """A step, as far as it matters here."""

    @property
    def slot(self) -> int:
        """The session's row of the cache."""

    @property
    def end(self) -> int:
        """One past its last position."""

    @property
    def is_decoding(self) -> bool:
        """One row, whose next id is wanted."""


_Step = TypeVar("_Step", bound=Waiting)


class Batching(Generic[_Step]):
    """The steps that wait.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._decoding = dict[int, _Step]()  # by slot, in the order in which they came
        self._chunks = deque[_Step]()
        self._chunk_is_next = False
        self._expected = dict[int, float]()  # slot: until when its next row is worth waiting for

    def __len__(self) -> int:
        return len(self._decoding) + len(self._chunks)

    def add(self, step: _Step) -> None:
        """Another step that waits; its session has no other."""
        self._expected.pop(step.slot, None)
        if step.is_decoding:
            self._decoding[step.slot] = step
        else:
            self._chunks.append(step)

    def drop(self, slot: int) -> list[_Step]:
        """Take out what waits for a slot: its session has ended."""
        self._expected.pop(slot, None)
        dropped = [step for step in (*self._decoding.values(), *self._chunks) if step.slot == slot]
        self._decoding.pop(slot, None)
        self._chunks = deque(step for step in self._chunks if step.slot != slot)
        return dropped

    def next(self) -> list[_Step]:
        """What is to be computed now, by ascending slot; nothing while it is worth waiting (:meth:`wait_s`)."""
        if self._chunks and (self._chunk_is_next or not self._decoding):
            self._chunk_is_next = False
            return [self._chunks.popleft()]
        if not self._decoding or (not self._chunks and self.wait_s() > 0):
            return []
        self._chunk_is_next = True
        together = self._company()
        for step in together:
            del self._decoding[step.slot]
        return sorted(together, key=lambda step: step.slot)

    def wait_s(self) -> float:
        """Seconds until :meth:`next` no longer waits for others to join."""
        now = self._clock()
        self._expected = {slot: until for slot, until in self._expected.items() if until > now}
        return max(self._expected.values(), default=now) - now

    def decoded(self, steps: list[_Step], seconds: float) -> None:
        """A pass of decoding steps took ``seconds``; their sessions are about to send the next row."""
        until = self._clock() + min(GATHERING_SHARE * seconds, MOST_GATHERING_S)
        self._expected.update((step.slot, until) for step in steps)

    def _company(self) -> list[_Step]:
        """Decoding steps that may share a pass: the one that has waited longest is among them."""
        together = list[_Step]()
        for step in self._decoding.values():
            company = [*together, step]
            slots = [each.slot for each in company]
            read = (max(slots) - min(slots) + 1) * max(each.end for each in company)
            if not together or read <= WASTE * sum(each.end for each in company) + FREE_WASTE:
                together = company
        return together
