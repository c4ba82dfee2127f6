"""How much one peer may ask for in a second.

Bookkeeping only. Knows: names, sizes, the clock. Does not know: sockets, keys, what is asked.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

# A prompt row of an 8B model has 8 KiB: 6,000 prompt tokens a second, which few devices come near.
MAX_MB_S_PER_KEY = 50.0
# A request is a token: four sessions at 250 tokens a second each.
MAX_REQUESTS_S_PER_KEY = 1000.0
# Runs that begin. A page or a program of one person needs less than one; each costs the cache some clearing.
MAX_RUNS_S_PER_KEY = 10.0
# Of a thread's time: what reading and answering, or a disk, may cost for one key, whatever it is that it asks. Four
# sessions of 250 tokens a second each take about a tenth of the thread that reads.
MAX_THREAD_SHARE = 0.2
BURST_S = 2.0  # what was not used of so many seconds may come at once
LARGEST_AT_ONCE = 4  # messages of the largest size, however low the limit
MAX_KNOWN = 4096  # peers whose use is remembered; who came longest ago is forgotten


@dataclass(frozen=True)
class RateLimits:
    """What one key, or without keys one connection, may ask for in a second.

    Attributes:
        bytes_s: bytes that it sends and gets.
        requests_s: requests.
        runs_s: runs that begin.
        thread_share: seconds of the thread that reads, and of the background.
    """

    bytes_s: float = math.inf
    requests_s: float = math.inf
    runs_s: float = math.inf
    thread_share: float = math.inf


NO_LIMITS = RateLimits()


class RateLimiter:
    """What each peer may ask for: bytes and requests a second, seconds of work a second, and bursts of them.

    The generic cell rate algorithm (ITU-T I.371), once for each of the three: a peer's *theoretical arrival time* is
    when all that it has had so far would be used up at its rate; it may lie ahead of now by no more than the burst.

    Args:
        bytes_s: bytes a second of one peer, both ways; infinity is no limit.
        requests_s: requests a second, likewise.
        largest: bytes of the largest message; some of them may always come at once.
        clock: monotonic seconds.
        share: seconds of work a second, likewise.
    """

    def __init__(
        self, bytes_s: float, requests_s: float, largest: int, clock: Callable[[], float], *, share: float = math.inf
    ) -> None:
        self._rates, self._clock = (bytes_s, requests_s, share), clock
        self._bursts_s = (
            max(BURST_S, LARGEST_AT_ONCE * largest / bytes_s),
            max(BURST_S, LARGEST_AT_ONCE / requests_s),
            BURST_S,
        )
        self._arrivals = OrderedDict[str | bytes, tuple[float, ...]]()  # theoretical arrival times

    def __len__(self) -> int:
        return len(self._arrivals)

    def wait_s(self, peer: str | bytes, size: int) -> float:
        """0, and a request of ``size`` bytes counts; or the seconds until there is room for it, and it does not."""
        before = self._arrivals.pop(peer, (0.0, 0.0, 0.0))
        after = self._after(before, size, 1, 0.0)
        now = self._clock()
        wait_s = max(0.0, *(time - now - burst for time, burst in zip(after, self._bursts_s, strict=True)))
        self._arrivals[peer] = before if wait_s else after
        if len(self._arrivals) > MAX_KNOWN:
            self._arrivals.popitem(last=False)
        return wait_s

    def charge(self, peer: str | bytes, *, size: int = 0, seconds: float = 0.0) -> None:
        """What a request turned out to cost beyond its own bytes: those of its reply, and seconds of work.

        A peer that nobody knows any more is not charged.
        """
        if peer in self._arrivals:
            self._arrivals[peer] = self._after(self._arrivals[peer], size, 0, seconds)

    def _after(self, before: tuple[float, ...], *costs: float) -> tuple[float, ...]:
        now = self._clock()
        return tuple(max(t, now) + cost / rate for t, cost, rate in zip(before, costs, self._rates, strict=True))
