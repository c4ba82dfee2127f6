"""Polls the cloud every few seconds while a page is open and no run does: is it there, and which sheets has it?

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
    """What is known of the cloud, in a thread of its own.

    Args:
        pipeline: whose cloud.
        ending: of the program.
        is_running: whether a run is under way, which reports by itself.

    Attributes:
        entries: the sheets that there are; None while they are unknown.
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
        # A daemon: no cloud keeps the program from ending.
        self._thread = threading.Thread(target=self._poll, name="cloud health", daemon=True)

    def start(self) -> None:
        """Begin to poll."""
        self._thread.start()

    def close(self) -> None:
        """Poll no more."""
        self._closing.set()

    def report_here(self) -> None:
        """Say that the cloud answers."""
        self.report("here", wording.cloud_is_here(self.cloud.address))

    def report(self, state: CloudState, says: str) -> None:
        """Say what is known of the cloud now; it is an event where that is new."""
        with self._lock:
            if (state, says) == (self._state, self._says):
                return
            self._state, self._says = state, says
            cloud = self.snapshot()
        self.events.add("cloud", cloud=cloud)

    def snapshot(self) -> dict[str, str]:
        """Give what the page is sent of it."""
        return {"address": self.cloud.address, "state": self._state, "says": printable(self._says)}

    def _poll(self) -> None:
        while not self._closing.wait(0 if self._state == "connecting" else POLL_S):
            if self.is_running() or (not self.events.has_subscribers and self._state != "connecting"):
                continue  # the run reports; nobody wants to know
            try:
                with self.ending.under_the_ceiling():
                    self._ask()
            except Stopped:
                return
            except RequestUnanswered as err:  # so it is here
                self.events.add("notice", text=printable(str(err)))
            except (CheckpointError, ProtocolMismatch) as err:
                self.report("wrong", str(err))
            except SplitLlamaError as err:
                self.report("away", str(err))

    def _ask(self) -> None:
        """Ask whether the cloud is there, and which sheets it has."""
        cloud = replace(self.cloud, deadline_s=POLL_S, restart_deadline_s=None)
        with cloud.link(while_waiting=self.ending.check) as link:
            self.pipeline.device.meet(link)
        if self.pipeline.source.is_the_cloud and (self._state != "here" or self.entries is None):
            before, self.entries = self.entries, self.pipeline.source.entries(self.ending.check)
            if self.entries != before:
                self.events.add("sheets")
        self.report_here()
