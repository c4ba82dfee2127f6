"""The prompts as the page last saw them. A run uses exactly this preview and does not reread the files.

Knows: the pipeline's steps before a run. Does not know: runs, consents, JSON.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from llama.edge.pipeline import Preview, RunPipeline
from llama.edge.web.errors import Conflict
from llama.edge.web.event_stream import Ending


class Previews:
    """The last preview of each sheet. Any thread may use it.

    Attributes:
        in_progress: number of calls of :meth:`look_at` under way.
    """

    def __init__(self, pipeline: RunPipeline, ending: Ending) -> None:
        self.pipeline, self.ending = pipeline, ending
        self._lock = threading.Lock()
        self._last: dict[str, Preview] = {}
        self.in_progress = 0

    def look_at(self, prompt_id: str, hidden: Sequence[str] = ()) -> Preview:
        """Read the profile and the sheet, and prepare them again, with ``hidden`` words as tags.

        Raises:
            SplitLlamaError: one of them cannot be read, or the prompt cannot be prepared.
        """
        with self._lock:
            self.in_progress += 1
        try:
            profile = self.pipeline.read_profile()
            with self.ending.under_the_ceiling():
                sourced = self.pipeline.find(prompt_id, self.ending.check)
            preview = self.pipeline.prepare(sourced, profile, hidden)
            with self._lock:
                self._last[prompt_id] = preview
            return preview
        finally:
            with self._lock:
                self.in_progress -= 1

    def seen(self, prompt_id: str, digest: str | None, profile_version: str) -> Preview:
        """Return the last preview of a sheet.

        Args:
            prompt_id: id of the sheet.
            digest: digest of the preview that the page showed, if another page may have looked since.
            profile_version: current version of the profile.

        Raises:
            Conflict: there is no preview, or the sheet or the profile has changed since.
        """
        with self._lock:
            preview = self._last.get(prompt_id)
        if preview is None:
            raise Conflict("look at the sheet first")
        if digest is not None and digest != preview.digest:
            raise Conflict("the sheet has changed since you saw this prompt; look at it again")
        if preview.profile_version != profile_version:
            raise Conflict("your profile has changed since you saw this prompt; look at it again")
        return preview

    def clear(self) -> None:
        """Drop all previews, because the profile has changed."""
        with self._lock:
            self._last.clear()
