"""What a page may ask for: the state of everything, a look at a sheet, a run, its stop, the profile's text.

Two threads of its own: the worker runs prompts, and the poller asks the cloud whether it is there.

Knows: the pipeline, what was seen, the run under way. Does not know: HTTP, what the page looks like.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from llama.edge.consent import ConsentState
from llama.edge.pipeline import Preview, RunPipeline
from llama.edge.web import page_json
from llama.edge.web.cloud_health import CloudHealthPoller
from llama.edge.web.errors import Conflict
from llama.edge.web.event_stream import Ending, EventStream
from llama.edge.web.page_run import CurrentRun
from llama.edge.web.previews import Previews
from llama.edge.web.profile_editor import ProfileEditor
from llama.edge.web.run_worker import RunWorker
from llama.errors import MemoryCeilingReached

END_S = 1.0  # for the worker and what it tells the cloud, when the program ends


class WebController:
    """Drives one device for one page.

    Args:
        pipeline: of the device; it has a cloud.
        prompt_id: the sheet that is chosen at first, or empty.

    Attributes:
        events: what happened, for the page to follow.
    """

    def __init__(self, pipeline: RunPipeline, prompt_id: str = "") -> None:
        assert pipeline.cloud is not None
        self.pipeline, self.prompt_id, self.events = pipeline, prompt_id, EventStream()
        self._ending = Ending(self.events)
        self._current = CurrentRun(self.events)
        self._health = CloudHealthPoller(pipeline, self._ending, lambda: self._current.is_under_way)
        self._worker = RunWorker(pipeline, self._current, self._health, self._ending)
        self._editor = ProfileEditor(pipeline.profile_file)
        self._previews = Previews(pipeline, self._ending)
        pipeline.read_profile()  # an unusable profile is reported at once,
        pipeline.cloud.link().close()  # and so is what is no address
        self._worker.start()

    @property
    def failure(self) -> MemoryCeilingReached | None:
        """Why the program has to end, where it has to."""
        return self._ending.failure

    def start(self) -> None:
        """Begin to poll the cloud."""
        self._health.start()

    def close(self) -> bool:
        """Stop all that is under way, and wait for it a little. False where something is still at work."""
        self._health.close()
        self.events.end()
        give_up = time.monotonic() + END_S
        has_ended = self._worker.close(END_S)
        while self._previews.in_progress and time.monotonic() < give_up:
            time.sleep(0.01)
        return has_ended and not self._previews.in_progress

    def state(self) -> dict[str, Any]:
        """Give everything that a page needs to begin with.

        Raises:
            ProfileError: the profile cannot be read.
        """
        half, file = self.pipeline.device.half, self.pipeline.profile_file
        profile = self.pipeline.read_profile().profile
        with self._current.lock:
            last_event = self.events.last  # first: what happens meanwhile is reported once more
            return {
                "cloud": self._health.snapshot(),
                "model": page_json.model(half),
                "sheets": [page_json.sheet_entry(entry) for entry in self._health.entries or ()],
                "prompt_id": self.prompt_id,
                "profile": None if file is None else page_json.profile(Path(file).name, profile),
                "sanitise": self.pipeline.settings.mode,
                "run": None if self._current.run is None else self._current.run.snapshot(),
                "last_event": last_event,
            }

    def look_at(self, prompt_id: str) -> dict[str, Any]:
        """Give a sheet with this person's profile: all that would leave, and what must be agreed to.

        Raises:
            SplitLlamaError: it cannot be had or prepared.
        """
        preview = self._previews.look_at(prompt_id)
        return page_json.preview(prompt_id, preview, self.pipeline.consent(preview))

    def begin(self, prompt_id: str, agree: bool, seen_as: str | None = None) -> str:
        """Start a run of a sheet as it was last looked at; give its id.

        Args:
            prompt_id: which.
            agree: to what the sheet asks for.
            seen_as: ``seen`` of what :meth:`look_at` gave to whoever starts it, if others may have looked since.

        Raises:
            Conflict: one is under way, the sheet was not looked at, or it or the profile has changed since.
            PermissionError: the person must agree first.
            ProfileError: the agreement cannot be read or written down.
        """
        version = self.pipeline.read_profile().version
        with self._current.lock:
            if self._current.is_under_way:
                raise Conflict("a run is under way; stop it first")
            preview = self._previews.seen(prompt_id, seen_as, version)
            self._require_consent(preview, agree)
            run = self._current.begin(prompt_id, preview.digest, len(preview.prepared.outgoing.ids))
        self._worker.submit(run, preview)
        return run.id

    def _require_consent(self, preview: Preview, agree: bool) -> None:
        request = self.pipeline.consent(preview)
        if request.state() is ConsentState.NEEDED:
            if not agree:
                raise PermissionError("the sheet asks for fields of your profile")
            request.remember()

    def stop(self, run_id: str | None = None) -> None:
        """End the run that is under way, if one is (and is the one that is meant).

        Unless it is being finished already, it never is, so nobody gets a copy; and the next one may begin.
        """
        self._current.stop(run_id)

    def profile_text(self) -> tuple[str, str]:
        """Give the profile's text and its version. Raises as ``ProfileEditor.read``."""
        return self._editor.read()

    def write_profile(self, text: str, version: str) -> str:
        """Replace the profile, and forget what was seen with the old one. Raises as ``ProfileEditor.write``."""
        with self._current.lock:
            version = self._editor.write(text, version)
            self._previews.clear()
        self.events.add("profile")
        return version
