"""The limit on this process's own memory: resident, without pages that are mapped from files.

libzmq limits the size of a frame, but not the number of frames of a message. So any connected peer can make the process
grow, on either side, and the process cannot see a message before it ends. Only a check of the process's memory limits
this.

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
CLOUD_ALLOWANCE = 2 << 30  # bytes by which a cloud may grow after loading, or a quarter of its size then
DEVICE_ALLOWANCE = 512 << 20  # bytes by which received data may make a device grow, or a quarter of its size
CLOUD_WORDS = (
    "this cloud uses {used:.2f} GiB of memory, over its limit of {most:.2f} (--max_memory_gb): a client may send "
    "endless messages; start it again, devices then continue their replies"
)
DEVICE_WORDS = (
    "this device uses {used:.2f} GiB of memory, over its limit of {most:.2f} (--max_memory_gb): the cloud may send "
    "endless messages; check that --cloud is the right one"
)
PROGRAM_WORDS = (
    "this program uses {used:.2f} GiB of memory, over its limit of {most:.2f}: the cloud may send endless messages; "
    "check that --cloud is the right one"
)

_STATM = Path("/proc/self/statm")


class MemoryCeiling:
    """A fixed ceiling.

    Args:
        most: bytes.
        clock: monotonic seconds.
        used: returns the memory of the process in bytes.
        words: of the error, with ``{used}`` and ``{most}`` in GiB.
    """

    def __init__(
        self, most: float, clock: Callable[[], float], used: Callable[[], int], words: str = CLOUD_WORDS
    ) -> None:
        self.most, self._clock, self._used, self._words = most, clock, used, words
        self._look_again = clock()

    def check(self) -> None:
        """Check the memory, at most once per ``LOOK_EVERY_S``.

        Raises:
            MemoryCeilingReached: the process has more than the ceiling.
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
        """Enclose work of the process that takes memory and keeps it.

        Raises:
            UsageError: the process then has more than the ceiling.
        """
        yield
        used = self._used()
        if used > self.most:
            raise UsageError(
                f"--max_memory_gb {self.most / 2**30:.2f}: the loaded half and its cache take "
                f"{used / 2**30:.2f} GiB; set a higher limit"
            )


class GrowthCeiling(MemoryCeiling):
    """A ceiling at a distance above the memory that the process takes for its own work.

    Args:
        allowance: bytes; a quarter of the memory in use counts instead if that is more.
        clock: monotonic seconds.
        used: returns the memory of the process in bytes.
        words: of the error.
    """

    def __init__(
        self, allowance: int, clock: Callable[[], float], used: Callable[[], int], words: str = PROGRAM_WORDS
    ) -> None:
        self._allowance, self._lock, self._at_work = allowance, threading.Lock(), 0
        super().__init__(self._above_present(used()), clock, used, words)

    def check(self) -> None:
        """Check as the fixed ceiling does, but not during the process's own work."""
        if not self._at_work:
            super().check()

    @contextmanager
    def growing(self) -> Iterator[None]:
        """Count the memory taken inside as the process's own from then on; any thread may use this."""
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
    """Return the ceiling of a program that asks a cloud; None if the system does not report its memory.

    Args:
        gib: value of the flag. Without it, the ceiling is the memory that the process has and keeps, and
            ``DEVICE_ALLOWANCE`` or a quarter more.
        words: of the error.

    Raises:
        UsageError: ``gib`` is no valid ceiling, or the memory cannot be watched.
    """
    has = own_memory()
    if gib is None:
        if has is None:
            return None
        return GrowthCeiling(DEVICE_ALLOWANCE, time.monotonic, lambda: own_memory() or 0, words)
    if has is None:
        raise UsageError("--max_memory_gb: this system does not report the memory of a process; omit the flag")
    if not gib * 2**30 > has:  # also refuses NaN
        raise UsageError(
            f"--max_memory_gb {gib}: the process uses {has / 2**30:.2f} GiB before loading; set a higher limit"
        )
    return MemoryCeiling(gib * 2**30, time.monotonic, lambda: own_memory() or 0, words)


def own_memory() -> int | None:
    """Return the resident bytes of this process without those mapped from files; None if the system hides them."""
    try:
        _, resident, shared, *_ = map(int, _STATM.read_text().split())
    except (OSError, ValueError):
        return None
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
