"""Holds the run that is under way, or the last one, and appends each change of it to the events.

A page that opens now reads the snapshot, and then the events after it: both are changed under one lock, so that nothing
is shown twice or not at all.

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
    """One run, as a page that is opened now needs to know it.

    Attributes:
        id: random.
        prompt_id: of its sheet.
        seen: digest of what was seen, and runs.
        phase: how far it is.
        prefill: how much of the prompt is computed, while it is.
        text: the reply so far.
        iteration: the last round trip.
        done: the whole reply, when it is done.
        error: why it has failed.
        stopped_at: when the person stopped it, in monotonic seconds.
        finishing: the request that completes the reply is on its way, or was.
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
        """Whether nothing of it will change."""
        return self.phase in ("done", "failed", "stopped")

    def snapshot(self) -> dict[str, Any]:
        """Give what the page is sent of it."""
        names = ("id", "prompt_id", "seen", "phase", "prefill", "text", "iteration", "done", "error")
        return {name: getattr(self, name) for name in names}


class CurrentRun:
    """The run under way, or the last one.

    Attributes:
        lock: of everything here; whoever needs two steps as one takes it around both.
        run: it; None before the first.
    """

    def __init__(self, events: EventStream) -> None:
        self.events = events
        self.lock = threading.RLock()
        self.run: PageRun | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether a run has begun and is not over."""
        run = self.run
        return run is not None and not run.is_over

    def begin(self, prompt_id: str, seen: str, prompt_tokens: int) -> PageRun:
        """Begin a run; the one before is over."""
        with self.lock:
            run = self.run = PageRun(secrets.token_hex(8), prompt_id, seen)
            self.events.add("begun", run=run.snapshot(), prompt_tokens=prompt_tokens)
            return run

    def stop(self, run_id: str | None) -> None:
        """Say that the person has stopped the run of that id, or any; it is over unless it is being finished."""
        with self.lock:
            run = self.run
            if run is None or run_id not in (None, run.id) or run.stopped_at is not None:
                return
            run.stopped_at = time.monotonic()
            if not run.finishing:
                self.end(run, "stopped")

    def begin_finishing(self, run: PageRun) -> None:
        """From here on a run that is stopped may be finished all the same. Raises ``Stopped`` where it is already."""
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
        """Append a round trip; ``prefill`` is how much of the prompt is computed, where the prompt is."""
        with self.lock:
            if run.is_over:
                return
            run.iteration, run.prefill = iteration, prefill
            run.phase = "decoding" if prefill is None else "prefill"
            if prefill is not None:
                self.events.add("prefill", **prefill)
            self.events.add("iteration", **iteration)

    def end(self, run: PageRun, phase: Phase, *, done: dict[str, Any] | None = None, error: str | None = None) -> None:
        """Say what has become of a run, once."""
        with self.lock:  # another run may begin as soon as this one is over
            if run.is_over:
                return
            run.phase, run.done, run.error = phase, done, error
            given = {"reply": done, "error": error}
            self.events.add(phase, **{name: what for name, what in given.items() if what is not None})
