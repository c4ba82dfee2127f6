"""The person's history, for the page: list the runs, begin to keep them, have the cloud forget one.

Knows: the history's file, the cloud. Does not know: runs under way, HTTP.
"""

from __future__ import annotations

from typing import Any

from llama.edge import wording
from llama.edge.forgetting import forget
from llama.edge.history import History, HistoryEntry, Outcome, beside
from llama.edge.pipeline import RunPipeline
from llama.edge.web.errors import Conflict
from llama.edge.web.event_stream import Ending
from llama.text.printable import printable

SHOWN = 50  # newest runs


class PageHistory:
    """The history of the pipeline's person. Any thread may use it."""

    def __init__(self, pipeline: RunPipeline, ending: Ending) -> None:
        self.pipeline, self.ending = pipeline, ending

    def listed(self) -> dict[str, Any]:
        """Return the newest runs, and where they are kept, or where they could be.

        Raises:
            HistoryError: the file cannot be read.
        """
        history, profile_file = self.pipeline.history, self.pipeline.profile_file
        entries = [] if history is None else history.entries()
        return {
            "file": None if history is None else printable(str(history.path)),
            "offered": None if profile_file is None else printable(str(beside(profile_file))),
            "runs": [self._run(entry) for entry in entries[:SHOWN]],
            "more": max(0, len(entries) - SHOWN),
        }

    def keep(self) -> None:
        """Keep a history beside the profile from now on.

        Raises:
            Conflict: there is no profile to put it beside.
            HistoryError: the file cannot be written.
        """
        if self.pipeline.history is not None:
            return
        if self.pipeline.profile_file is None:
            raise Conflict("there is no profile to keep a history beside; start the program with --history")
        history = History(beside(self.pipeline.profile_file))
        history.begin()
        self.pipeline.history = history

    def forget(self, run_id: str) -> str:
        """Have the cloud forget a run. Return what came of it.

        Raises:
            SplitLlamaError: as ``llama.edge.forgetting.forget``.
        """
        assert self.pipeline.cloud is not None
        return wording.forgotten(forget(self.pipeline.cloud, run_id, self.pipeline.history, self.ending.check))

    def _run(self, entry: HistoryEntry) -> dict[str, Any]:
        assert self.pipeline.cloud is not None
        is_here = entry.cloud == self.pipeline.cloud.address
        return {
            "run_id": entry.run_id,
            "began_at": entry.began_at,
            "title": printable(wording.history_title(entry)),
            "lines": [[head, printable(text)] for head, text in wording.history_lines(entry)],
            "tags": entry.tags,
            "forgettable": is_here and not entry.forgotten_at and entry.outcome is not Outcome.BEGUN,
        }
