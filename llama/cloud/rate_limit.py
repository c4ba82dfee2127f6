"""The rate limiter: limits of one peer's bytes, requests and work a second.

Bookkeeping only. Knows: names, sizes, the clock. Does not know: sockets, keys, the content of requests.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

# A prompt row of an 8B model has 8 KiB, so this allows 6,000 prompt tokens a second. Few devices come near that.
MAX_MB_S_PER_KEY = 50.0
# A request is a token, so this allows four sessions at 250 tokens a second each.
MAX_REQUESTS_S_PER_KEY = 1000.0
# Runs that begin. A page or a program of one person needs less than one a second. Each one costs the time to clear a
# slot.
MAX_RUNS_S_PER_KEY = 10.0
# Share of a thread's time that one key may cost, for reading and answering or for a disk, with any kind of request.
# Four sessions of 250 tokens a second each take about a tenth of the I/O thread.
MAX_THREAD_SHARE = 0.2
BURST_S = 2.0  # the unused allowance of so many seconds may be used at once
LARGEST_AT_ONCE = 4  # messages of the largest size that may come at once, even under the lowest limit
MAX_KNOWN = 4096  # peers whose use is remembered; beyond that the one that asked longest ago is forgotten


@dataclass(frozen=True)
class RateLimits:
    """Limits of one key, or without keys of one connection, per second.

    Attributes:
        bytes_s: bytes sent and received.
        requests_s: requests.
        runs_s: runs that begin.
        thread_share: seconds of the I/O thread and of the background thread.
    """

    bytes_s: float = math.inf
    requests_s: float = math.inf
    runs_s: float = math.inf
    thread_share: float = math.inf


NO_LIMITS = RateLimits()


class RateLimiter:
    """Rate limiter of each peer's bytes, requests and seconds of work per second, with bursts.

    It uses the generic cell rate algorithm (ITU-T I.371), once for each of the three. A peer's *theoretical arrival
    time* is when its use so far would end at its rate. It may be ahead of now by no more than the burst.

    Args:
        bytes_s: bytes a second of one peer, in both directions together; infinity is no limit.
        requests_s: requests a second of one peer, likewise.
        largest: bytes of the largest message; ``LARGEST_AT_ONCE`` of them may always come at once.
        clock: monotonic seconds.
        share: seconds of work a second of one peer, likewise.
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
        """Return 0 and count a request of ``size`` bytes, or return the seconds to wait, without counting it."""
        before = self._arrivals.pop(peer, (0.0, 0.0, 0.0))
        after = self._after(before, size, 1, 0.0)
        now = self._clock()
        wait_s = max(0.0, *(time - now - burst for time, burst in zip(after, self._bursts_s, strict=True)))
        self._arrivals[peer] = before if wait_s else after
        if len(self._arrivals) > MAX_KNOWN:
            self._arrivals.popitem(last=False)
        return wait_s

    def charge(self, peer: str | bytes, *, size: int = 0, seconds: float = 0.0) -> None:
        """Charge a peer for a request's further costs: the bytes of its reply, and seconds of work.

        A forgotten peer is not charged.
        """
        if peer in self._arrivals:
            self._arrivals[peer] = self._after(self._arrivals[peer], size, 0, seconds)

    def _after(self, before: tuple[float, ...], *costs: float) -> tuple[float, ...]:
        now = self._clock()
        return tuple(max(t, now) + cost / rate for t, cost, rate in zip(before, costs, self._rates, strict=True))
