"""SIGINT, SIGTERM and SIGHUP in a serving cloud: rank 0 remembers them, the other ranks wait for rank 0.

Knows: signals. Does not know: the work that a stop interrupts.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from types import FrameType

GRACE_S = 10  # after a signal, another rank waits so long for rank 0 to shut it down


class StopOnSignal:
    """Signal handler that remembers SIGINT, SIGHUP and SIGTERM instead of ending the process during a step.

    The first SIGTERM drains; any other signal, or a second one, stops.
    """

    def __init__(self) -> None:
        self._stop = self._drain = False
        _handle(self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._stop = self._stop or self._drain or number != signal.SIGTERM
        self._drain = True

    def requested(self) -> bool:
        """Return True once the cloud must stop at once."""
        return self._stop

    def drain_requested(self) -> bool:
        """Return True once the cloud must open no more sessions."""
        return self._drain


def leave_stopping_to_rank_0(drain_s: float) -> None:
    """Make a signal only start a timer, since rank 0 gets it, too. The timer ends the process if rank 0 does not."""

    def wait_for_rank_0(number: int, frame: FrameType | None) -> None:
        drains_s = math.ceil(drain_s) if number == signal.SIGTERM else 0
        signal.alarm(GRACE_S + drains_s)  # its default action ends the process

    _handle(wait_for_rank_0)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP: leave it so
            signal.signal(number, handler)
