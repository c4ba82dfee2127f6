"""Poller of the cloud's state and its sheets, every few seconds while a page is open and no run is under way.

Knows: the pipeline's device, sheets and cloud. Does not know: runs, HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from llama.client.link import Stopped
from llama.edge import wording
from llama.edge.pipeline import RunPipeline
from llama.edge.web.event_stream import Ending
from llama.errors import CheckpointError, ProtocolMismatch, RequestUnanswered, SplitLlamaError
from llama.text.printable import printable
from llama.wire import SheetEntry

POLL_S = 3.0

CloudState = Literal["connecting", "here", "away", "wrong"]


class CloudHealthPoller:
    """The cloud's state, polled in a separate thread.

    Args:
        pipeline: the pipeline with the cloud to poll.
        ending: the end of the program.
        is_running: returns whether a run is under way. The run then reports the state itself.

    Attributes:
        entries: the cloud's sheets; None while they are unknown.
    """

    def __init__(self, pipeline: RunPipeline, ending: Ending, is_running: Callable[[], bool]) -> None:
        assert pipeline.cloud is not None
        self.pipeline, self.ending, self.is_running = pipeline, ending, is_running
        self.cloud, self.events = pipeline.cloud, ending.events
        self.entries: tuple[SheetEntry, ...] | None = None
        if not pipeline.source.is_the_cloud:
            self.entries = pipeline.source.entries()
        self._lock = threading.Lock()
        self._state: CloudState = "connecting"
        self._says = wording.looking_for_cloud(self.cloud.address)
        self._closing = threading.Event()
        # A daemon thread, so that a slow cloud cannot keep the program from ending.
        self._thread = threading.Thread(target=self._poll, name="cloud health", daemon=True)

    def start(self) -> None:
        """Start polling."""
        self._thread.start()

    def close(self) -> None:
        """Stop polling."""
        self._closing.set()

    def report_here(self) -> None:
        """Report that the cloud answers."""
        self.report("here", wording.cloud_is_here(self.cloud.address))

    def report(self, state: CloudState, says: str) -> None:
        """Set the cloud's state. Add an event if it changed."""
        with self._lock:
            if (state, says) == (self._state, self._says):
                return
            self._state, self._says = state, says
            cloud = self.snapshot()
        self.events.add("cloud", cloud=cloud)

    def snapshot(self) -> dict[str, str]:
        """Return the cloud's state as the page gets it."""
        return {"address": self.cloud.address, "state": self._state, "says": printable(self._says)}

    def _poll(self) -> None:
        while not self._closing.wait(0 if self._state == "connecting" else POLL_S):
            if self.is_running() or (not self.events.has_subscribers and self._state != "connecting"):
                continue  # the run reports the state, or no page is open
            try:
                with self.ending.under_the_ceiling():
                    self._ask()
            except Stopped:
                return
            except RequestUnanswered as err:  # the cloud sends heartbeats, so it is here
                self.events.add("notice", text=printable(str(err)))
            except (CheckpointError, ProtocolMismatch) as err:
                self.report("wrong", str(err))
            except SplitLlamaError as err:
                self.report("away", str(err))

    def _ask(self) -> None:
        """Send Hello to the cloud, and list its sheets if they are unknown or it was away."""
        cloud = replace(self.cloud, deadline_s=POLL_S, restart_deadline_s=None)
        with cloud.link(while_waiting=self.ending.check) as link:
            self.pipeline.device.meet(link)
        if self.pipeline.source.is_the_cloud and (self._state != "here" or self.entries is None):
            before, self.entries = self.entries, self.pipeline.source.entries(self.ending.check)
            if self.entries != before:
                self.events.add("sheets")
        self.report_here()
