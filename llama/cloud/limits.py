"""How much one peer may send in a second.

Bookkeeping only. Knows: names, sizes, the clock. Does not know: sockets, keys, what is asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

# A prompt row of an 8B model has 8 KiB: 6,000 prompt tokens a second, which few devices come near.
MAX_MB_S_PER_KEY = 50.0
# A request is a token: four sessions at 250 tokens a second each.
MAX_REQUESTS_S_PER_KEY = 1000.0
BURST_S = 2.0  # what was not used of so many seconds may come at once
LARGEST_AT_ONCE = 4  # messages of the largest size, however low the limit
MAX_KNOWN = 4096  # peers whose use is remembered; who came longest ago is forgotten
ALLOWANCE = 2 << 30  # bytes that the process may grow by after loading, or a quarter of what it has then


class Budgets:
    """What each peer may send: bytes and requests a second, and a burst.

    Args:
        bytes_s: bytes a second of one peer; infinity is no limit.
        requests_s: requests a second, likewise.
        largest: bytes of the largest message; some of them may always come at once.
        clock: monotonic seconds.
    """

    def __init__(self, bytes_s: float, requests_s: float, largest: int, clock: Callable[[], float]) -> None:
        self._bytes_s, self._requests_s, self._clock = bytes_s, requests_s, clock
        self._bursts_s = max(BURST_S, LARGEST_AT_ONCE * largest / bytes_s), max(BURST_S, LARGEST_AT_ONCE / requests_s)
        self._paid = OrderedDict[str | bytes, tuple[float, float]]()  # until when each has used what is its share

    def __len__(self) -> int:
        return len(self._paid)

    def wait_s(self, peer: str | bytes, size: int) -> float:
        """0, and a request of ``size`` bytes counts; or the seconds until there is room for it, and it does not."""
        now = self._clock()
        before = self._paid.pop(peer, (now, now))
        after = max(before[0], now) + size / self._bytes_s, max(before[1], now) + 1 / self._requests_s
        wait_s = max(0.0, *(paid - now - burst for paid, burst in zip(after, self._bursts_s, strict=True)))
        self._paid[peer] = before if wait_s else after
        if len(self._paid) > MAX_KNOWN:
            self._paid.popitem(last=False)
        return wait_s
