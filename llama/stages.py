"""Timing of one forward pass, stage by stage.

Stages are timed only if the caller passes a clock. Knows nothing about: the computation of a stage.
"""

from __future__ import annotations

import time
from itertools import pairwise

import torch


class StageClock:
    """Clock that is stopped at the end of every stage.

    On a GPU the program only queues the stages, so events in the stream measure the time.

    Args:
        device: device that computes the stages.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = list[float]()
        self._events = list[torch.cuda.Event]()
        self.stop()

    def stop(self) -> None:
        """End a stage and begin the next one."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
            self._events.append(event)
            return
        if self._device.type == "mps":
            torch.mps.synchronize()
        self._seconds.append(time.perf_counter())

    def stages_us(self) -> list[int]:
        """Return the microseconds of each stage, after waiting for the GPU to finish."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return [round(1000 * begin.elapsed_time(end)) for begin, end in pairwise(self._events)]
        return [round(1e6 * (end - begin)) for begin, end in pairwise(self._seconds)]
