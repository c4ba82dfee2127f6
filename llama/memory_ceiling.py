"""How much memory this process may have of its own: resident, without what is mapped from files.

libzmq bounds a frame's size, but not how many frames a message has: whoever is connected can make the process grow, on
either side, and nothing of it is seen before the message ends. What bounds it is a look at the process itself.

Knows: the clock, what the system says of this process. Does not know: sockets, who sends.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llama.errors import MemoryCeilingReached, UsageError

LOOK_EVERY_S = 0.05
CLOUD_ALLOWANCE = 2 << 30  # bytes that a cloud may grow by after loading, or a quarter of what it has then
DEVICE_ALLOWANCE = 512 << 20  # bytes that a device may grow by through what it is sent, or a quarter of what it has
CLOUD_WORDS = (
    "this cloud has taken {used:.2f} GiB, and may have {most:.2f} (--max_memory_gb): somebody may send messages "
    "without end; start it again, devices go on where they were"
)
DEVICE_WORDS = (
    "this device has taken {used:.2f} GiB, and may have {most:.2f} (--max_memory_gb): the cloud may send messages "
    "without end; check that --cloud is the right one"
)
PROGRAM_WORDS = (
    "this program has taken {used:.2f} GiB, and may have {most:.2f}: the cloud may send messages without end; check "
    "that --cloud is the right one"
)

_STATM = Path("/proc/self/statm")


class MemoryCeiling:
    """A fixed one.

    Args:
        most: bytes.
        clock: monotonic seconds.
        used: what the process has now.
        words: of the error, with ``{used}`` and ``{most}`` in GiB.
    """

    def __init__(
        self, most: float, clock: Callable[[], float], used: Callable[[], int], words: str = CLOUD_WORDS
    ) -> None:
        self.most, self._clock, self._used, self._words = most, clock, used, words
        self._look_again = clock()

    def check(self) -> None:
        """Look, now and then.

        Raises:
            MemoryCeilingReached: there is more than that.
        """
        now = self._clock()
        if now < self._look_again:
            return
        self._look_again = now + LOOK_EVERY_S
        used = self._used()
        if used > self.most:
            raise MemoryCeilingReached(self._words.format(used=used / 2**30, most=self.most / 2**30))

    @contextmanager
    def growing(self) -> Iterator[None]:
        """In here the process's own work takes memory that it keeps.

        Raises:
            UsageError: that was more than the ceiling allows.
        """
        yield
        used = self._used()
        if used > self.most:
            raise UsageError(
                f"--max_memory_gb {self.most / 2**30:.2f}: the half and its cache are loaded, and take "
                f"{used / 2**30:.2f} GiB; give more"
            )


class GrowthCeiling(MemoryCeiling):
    """So much more than the process has of its own accord.

    Args:
        allowance: bytes, or a quarter of what there is where that is more.
        clock: monotonic seconds.
        used: what the process has now.
        words: of the error.
    """

    def __init__(
        self, allowance: int, clock: Callable[[], float], used: Callable[[], int], words: str = PROGRAM_WORDS
    ) -> None:
        self._allowance, self._lock, self._at_work = allowance, threading.Lock(), 0
        super().__init__(self._above_present(used()), clock, used, words)

    def check(self) -> None:
        """As the fixed one, but not while the process's own work takes memory."""
        if not self._at_work:
            super().check()

    @contextmanager
    def growing(self) -> Iterator[None]:
        """What is taken in here counts as the process's own from then on; any thread may use it."""
        with self._lock:
            self._at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self.most = self._above_present(self._used())
                self._at_work -= 1

    def _above_present(self, has: int) -> float:
        return has + max(self._allowance, has // 4)


def of_a_client(gib: float | None = None, words: str = PROGRAM_WORDS) -> MemoryCeiling | None:
    """The ceiling of a program that asks a cloud; None where the system does not tell how much memory it has.

    Args:
        gib: what a flag says; without it, what the process has and keeps, and ``DEVICE_ALLOWANCE`` or a quarter more.
        words: of the error.

    Raises:
        UsageError: ``gib`` is no ceiling, or cannot be watched.
    """
    has = own_memory()
    if gib is None:
        if has is None:
            return None
        return GrowthCeiling(DEVICE_ALLOWANCE, time.monotonic, lambda: own_memory() or 0, words)
    if has is None:
        raise UsageError("--max_memory_gb: this system does not say how much memory a process has; leave it away")
    if not gib * 2**30 > has:  # nor NaN
        raise UsageError(f"--max_memory_gb {gib}: it has {has / 2**30:.2f} GiB now, with nothing loaded; give more")
    return MemoryCeiling(gib * 2**30, time.monotonic, lambda: own_memory() or 0, words)


def own_memory() -> int | None:
    """Resident bytes of this process without those mapped from files; None where the system does not tell."""
    try:
        _, resident, shared, *_ = map(int, _STATM.read_text().split())
    except (OSError, ValueError):
        return None
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
