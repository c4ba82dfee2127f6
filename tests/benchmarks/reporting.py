"""What the benchmarks print alike: the machine, the versions, figures over rounds, and whether an aim is reached.

Knows nothing about: what is measured.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from types import FrameType

import msgspec
import psutil


class Aimed(msgspec.Struct):
    """One figure over some rounds, and what it should be.

    Attributes:
        name: what was measured.
        values: one per round.
        unit: printed after the figure.
        digits: printed after the decimal point.
        at_least: the aim, or None.
        at_most: the aim, or None.
    """

    name: str
    values: list[float]
    unit: str = ""
    digits: int = 2
    at_least: float | None = None
    at_most: float | None = None

    def line(self) -> str:
        """Name, median, range where there is more than one round, and the verdict where there is an aim."""
        middle, low, high = (f"{f(self.values):.{self.digits}f}" for f in (median, min, max))
        figure = f"{middle}{self.unit}" + (f"  ({low} – {high})" if len(self.values) > 1 else "")
        return f"  {self.name:<58} {figure:<26} {self._verdict()}".rstrip()

    def _verdict(self) -> str:
        if self.at_least is not None:
            reached, aim = median(self.values) >= self.at_least, f"≥ {self.at_least:g}{self.unit}"
        elif self.at_most is not None:
            reached, aim = median(self.values) <= self.at_most, f"≤ {self.at_most:g}{self.unit}"
        else:
            return ""
        return f"aim {aim}: {'reached' if reached else 'MISSED'}"


class Others:
    """How much of the machine everybody else takes, from when this is made; processes that end meanwhile count as else.

    A machine that is not quiet gives figures that mean little.
    """

    def __init__(self) -> None:
        self._before = _cpu_seconds()

    def share(self) -> float:
        """Of all cores' time, 0 … 1: neither idle nor used by this process and its descendants."""
        everything, idle, ours = (after - before for after, before in zip(_cpu_seconds(), self._before, strict=True))
        return max(0.0, (everything - idle - ours) / everything)


def hardware() -> str:
    """Return the CPU's model, the cores that this process may use, and the memory."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return (
        f"{model[1] if model else platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"{_meminfo('MemTotal') / 2**30:.1f} GiB"
    )


def machine() -> str:
    """Return a line with the hardware and the load of the last minute."""
    return f"machine: {hardware()}, load {os.getloadavg()[0]:.2f}"


def versions(packages: Sequence[str]) -> str:
    """Python's version and those of the installed ``packages``."""
    return "versions: " + ", ".join(
        [f"python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in packages)]
    )


def available_memory() -> int:
    """Bytes that can be used without swapping."""
    return _meminfo("MemAvailable")


def progress(text: str) -> None:
    """A line for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def end_cleanly_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does: by an exception, so that processes and files go with it."""

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)


def _cpu_seconds() -> tuple[float, float, float]:
    """Since boot: of all cores, of those spent idle, and of this process with its living descendants."""
    times, me = psutil.cpu_times(), psutil.Process()
    ours = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    everything = sum(times) - times.guest - times.guest_nice  # which user and nice contain already
    return everything, times.idle + times.iowait, sum(t.user + t.system for t in ours)


def _meminfo(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
