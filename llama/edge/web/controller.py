"""The page's requests: the whole state, a look at a sheet, a run, its stop, the profile's text.

Two threads work for it: the worker runs prompts, and the poller asks the cloud for its state.

Knows: the pipeline, the previews that were seen, the run under way. Does not know: HTTP, the look of the page.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama.edge.consent import ConsentState
from llama.edge.pipeline import Preview, RunPipeline
from llama.edge.web import page_json
from llama.edge.web.cloud_health import CloudHealthPoller
from llama.edge.web.errors import Conflict
from llama.edge.web.event_stream import Ending, EventStream
from llama.edge.web.page_history import PageHistory
from llama.edge.web.page_run import CurrentRun
from llama.edge.web.previews import Previews
from llama.edge.web.profile_editor import ProfileEditor
from llama.edge.web.run_worker import RunWorker
from llama.errors import MemoryCeilingReached

END_S = 1.0  # at the program's end, for the worker to close its session in the cloud


class WebController:
    """Controller of one device for one page.

    Args:
        pipeline: the device's pipeline, which has a cloud.
        prompt_id: the sheet that is selected at first, or empty.

    Attributes:
        events: the events that the page follows.
        history: the runs so far, if the person keeps them.
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
        self.history = PageHistory(pipeline, self._ending)
        pipeline.read_profile()  # report an unusable profile now,
        pipeline.cloud.link().close()  # and an invalid address, too
        self._worker.start()

    @property
    def failure(self) -> MemoryCeilingReached | None:
        """The reason why the program must end, or None."""
        return self._ending.failure

    def start(self) -> None:
        """Start polling the cloud."""
        self._health.start()

    def close(self) -> bool:
        """Stop everything, and wait up to a second for it. Return False if a thread is still at work."""
        self._health.close()
        self.events.end()
        give_up = time.monotonic() + END_S
        has_ended = self._worker.close(END_S)
        while self._previews.in_progress and time.monotonic() < give_up:
            time.sleep(0.01)
        return has_ended and not self._previews.in_progress

    def state(self) -> dict[str, Any]:
        """Return the state that a page needs when it opens.

        Raises:
            ProfileError: the profile cannot be read.
        """
        half, file = self.pipeline.device.half, self.pipeline.profile_file
        profile = self.pipeline.read_profile().profile
        with self._current.lock:
            last_event = self.events.last  # read first: events that happen meanwhile are then reported once more
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

    def look_at(self, prompt_id: str, hidden: Sequence[str] = ()) -> dict[str, Any]:
        """Return a sheet merged with this person's profile: everything that would leave, and the consent it needs.

        ``hidden`` are words that become tags in this run.

        Raises:
            SplitLlamaError: the sheet cannot be read or prepared.
        """
        preview = self._previews.look_at(prompt_id, hidden)
        return page_json.preview(prompt_id, preview, self.pipeline.consent(preview))

    def begin(self, prompt_id: str, agree: bool, seen_as: str | None = None) -> str:
        """Start a run of a sheet as it was last looked at. Return the run's id.

        Args:
            prompt_id: id of the sheet.
            agree: the person agrees to the fields that the sheet asks for.
            seen_as: ``seen`` of the :meth:`look_at` result that the caller showed. Another page may have looked since.

        Raises:
            Conflict: a run is under way, the sheet was not looked at, or the sheet or the profile has changed since.
            PermissionError: the person must agree first.
            PrivacyRefused: words that look personal would leave, and the settings are strict.
            ProfileError: the agreement cannot be read or stored.
        """
        version = self.pipeline.read_profile().version
        with self._current.lock:
            if self._current.is_under_way:
                raise Conflict("a run is under way; stop it first")
            preview = self._previews.seen(prompt_id, seen_as, version)
            self.pipeline.refuse_what_stays(preview)
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
        """End the run under way, if there is one. With ``run_id``, end only that run.

        If the cloud is not finishing the run yet, it never finishes it, so the third party gets no copy. Another run
        can begin at once.
        """
        self._current.stop(run_id)

    def profile_text(self) -> tuple[str, str]:
        """Return the profile's text and its version. Raise as ``ProfileEditor.read``."""
        return self._editor.read()

    def write_profile(self, text: str, version: str) -> str:
        """Replace the profile, and drop the previews made with the old one. Raise as ``ProfileEditor.write``."""
        with self._current.lock:
            version = self._editor.write(text, version)
            self._previews.clear()
        self.events.add("profile")
        return version

    def add_private_words(self, words: Sequence[str]) -> None:
        """Add words to the profile, which become tags from now on. Raise as ``ProfileEditor.add_private_words``."""
        with self._current.lock:
            self._editor.add_private_words(words)
            self._previews.clear()
        self.events.add("profile")
