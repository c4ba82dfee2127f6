"""The run under way, or the last one. Each change of it is appended to the events.

A page that opens reads the snapshot, and then the events after it. Both change under one lock, so that the page shows
each change exactly once.

Knows: phases, events. Does not know: the device, the cloud.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from llama.client.link import Stopped
from llama.edge.web.event_stream import EventStream

Phase = Literal["asking", "prefill", "decoding", "done", "failed", "stopped"]


@dataclass
class PageRun:
    """One run, with everything that a newly opened page needs.

    Attributes:
        id: random id.
        prompt_id: id of its sheet.
        seen: digest of the preview that was seen and runs.
        phase: progress of the run.
        prefill: how much of the prompt is computed, during prefill.
        text: the reply so far.
        iteration: the last round trip.
        done: the whole reply, when the run is done.
        error: reason of the failure, if it failed.
        stopped_at: time at which the person stopped it, in monotonic seconds.
        finishing: the request that completes the reply was sent, or is about to be.
    """

    id: str
    prompt_id: str
    seen: str
    phase: Phase = "asking"
    prefill: dict[str, int] | None = None
    text: str = field(default="", repr=False)
    iteration: dict[str, Any] | None = field(default=None, repr=False)
    done: dict[str, Any] | None = field(default=None, repr=False)
    error: str | None = None
    stopped_at: float | None = None
    finishing: bool = False

    @property
    def is_over(self) -> bool:
        """True if the run has ended and cannot change any more."""
        return self.phase in ("done", "failed", "stopped")

    def snapshot(self) -> dict[str, Any]:
        """Return the run as the page gets it."""
        names = ("id", "prompt_id", "seen", "phase", "prefill", "text", "iteration", "done", "error")
        return {name: getattr(self, name) for name in names}


class CurrentRun:
    """The run under way, or the last one.

    Attributes:
        lock: protects everything here. A caller that needs two steps to be atomic holds it around both.
        run: the run; None before the first one.
    """

    def __init__(self, events: EventStream) -> None:
        self.events = events
        self.lock = threading.RLock()
        self.run: PageRun | None = None

    @property
    def is_under_way(self) -> bool:
        """True if a run has begun and has not ended."""
        run = self.run
        return run is not None and not run.is_over

    def begin(self, prompt_id: str, seen: str, prompt_tokens: int) -> PageRun:
        """Begin a run. The run before it must have ended."""
        with self.lock:
            run = self.run = PageRun(secrets.token_hex(8), prompt_id, seen)
            self.events.add("begun", run=run.snapshot(), prompt_tokens=prompt_tokens)
            return run

    def stop(self, run_id: str | None) -> None:
        """Stop the run with that id, or any run for None. End it now unless the cloud is finishing it."""
        with self.lock:
            run = self.run
            if run is None or run_id not in (None, run.id) or run.stopped_at is not None:
                return
            run.stopped_at = time.monotonic()
            if not run.finishing:
                self.end(run, "stopped")

    def begin_finishing(self, run: PageRun) -> None:
        """Mark that the cloud may finish the run even if it is stopped from now on.

        Raises:
            Stopped: the run is already stopped.
        """
        with self.lock:
            if run.stopped_at is not None:
                raise Stopped
            run.finishing = True

    def add_text(self, run: PageRun, text: str) -> None:
        """Append a piece of the reply."""
        with self.lock:
            if text and not run.is_over:
                run.text += text
                self.events.add("text", text=text)

    def add_step(self, run: PageRun, iteration: dict[str, Any], prefill: dict[str, int] | None) -> None:
        """Append a round trip. ``prefill`` is how much of the prompt is computed, during prefill."""
        with self.lock:
            if run.is_over:
                return
            run.iteration, run.prefill = iteration, prefill
            run.phase = "decoding" if prefill is None else "prefill"
            if prefill is not None:
                self.events.add("prefill", **prefill)
            self.events.add("iteration", **iteration)

    def end(self, run: PageRun, phase: Phase, *, done: dict[str, Any] | None = None, error: str | None = None) -> None:
        """Set the final phase of a run. Further calls do nothing."""
        with self.lock:  # another run may begin as soon as this one has ended
            if run.is_over:
                return
            run.phase, run.done, run.error = phase, done, error
            given = {"reply": done, "error": error}
            self.events.add(phase, **{name: what for name, what in given.items() if what is not None})
