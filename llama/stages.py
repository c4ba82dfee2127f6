"""Where the time of one forward pass goes, stage by stage; for whoever wants to see it.

Nothing is measured unless a clock is handed in. Knows nothing about: what a stage computes.
"""

from __future__ import annotations

import time
from itertools import pairwise

import torch


class StageClock:
    """Stopped at the end of every stage.

    On a GPU the stages are only queued when the program gets there, so the stream itself keeps the time.

    Args:
        device: where the stages are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = list[float]()
        self._events = list[torch.cuda.Event]()
        self.stop()

    def stop(self) -> None:
        """A stage ends here, and the next one begins."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
            self._events.append(event)
            return
        if self._device.type == "mps":
            torch.mps.synchronize()
        self._seconds.append(time.perf_counter())

    def stages_us(self) -> list[int]:
        """Microseconds of each stage; waits for a GPU that is still at it."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return [round(1000 * begin.elapsed_time(end)) for begin, end in pairwise(self._events)]
        return [round(1e6 * (end - begin)) for begin, end in pairwise(self._seconds)]
