"""The times of one forward pass, stage by stage.

A forward pass measures them only if the caller passes a clock.

Knows: the clock, the device's stream. Does not know: the work of a stage.
"""

from __future__ import annotations

import time
from itertools import pairwise

import torch


class StageClock:
    """Clock that is stopped at the end of each stage.

    On a GPU the program only queues the stages, so events in the CUDA stream measure the time.

    Args:
        device: the device that computes the stages.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = list[float]()
        self._events = list[torch.cuda.Event]()
        self.stop()

    def stop(self) -> None:
        """End the current stage and begin the next one."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
            self._events.append(event)
            return
        if self._device.type == "mps":
            torch.mps.synchronize()
        self._seconds.append(time.perf_counter())

    def stages_us(self) -> list[int]:
        """Return the microseconds of each stage. Waits for the GPU to finish them."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return [round(1000 * begin.elapsed_time(end)) for begin, end in pairwise(self._events)]
        return [round(1e6 * (end - begin)) for begin, end in pairwise(self._seconds)]
