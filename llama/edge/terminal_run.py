"""One prompt in a terminal: drive the pipeline and show its results.

Knows: the flags of such a run, the order in which the person sees its parts. Does not know: how a part is shown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from llama.edge import terminal, wording
from llama.edge.consent import ConsentRequest, ConsentState
from llama.edge.generation import MAY_BE_HANDED_ON
from llama.edge.last_look import LastLook
from llama.edge.pipeline import (
    Notice,
    Preview,
    ReplyBegins,
    ReplyComplete,
    ReplyText,
    RunEvent,
    RunPipeline,
    RunResult,
    VersionedProfile,
)
from llama.errors import Declined, PrivacyRefused, ProfileError, UsageError
from llama.process_end import end_if_signalled
from llama.prompt import SourcedPrompt
from llama.sheets import Sheet


@dataclass(frozen=True)
class TerminalOptions:
    """Options for running and showing one prompt.

    Attributes:
        dry_run: print what would leave this device, and stop.
        yes: agree to the fields that the sheet asks for, and to words that look personal, for this run.
        plain: only the reply on stdout.
        json: one JSON object on stdout instead of streamed text.
    """

    dry_run: bool = False
    yes: bool = False
    plain: bool = False
    json: bool = False


class TerminalRun:
    """One prompt in a terminal."""

    def __init__(self, pipeline: RunPipeline, options: TerminalOptions) -> None:
        self.pipeline, self.options = pipeline, options
        self.screen = terminal.Terminal(plain=options.plain or options.json)
        self._complete = False

    def run(self, prompt_id: str) -> None:
        """Find the prompt, prepare it, ask the person, run it and show the result.

        Raises:
            SplitLlamaError: the run ended, with the reason. ``generation`` says what may have been sent by then; before
                that, nothing was sent.
        """
        sourced = self.pipeline.find(prompt_id, end_if_signalled)
        profile = self._profile(sourced)
        if self.pipeline.settings.mode == "off":
            self.screen.notice(wording.SANITISE_OFF)
        preview = self.pipeline.prepare(sourced, profile)
        for caution in preview.prepared.cautions:
            self.screen.notice(wording.caution(caution))
        if preview.missing:
            self.screen.notice(wording.missing_fields(preview.missing))
        if self.options.dry_run:
            self._show_dry_run(preview)
            return
        preview = self._last_look(preview, profile)
        self.pipeline.refuse_what_stays(preview)
        require_consent(
            self.pipeline.consent(preview),
            yes=self.options.yes,
            ask=lambda question: self._ask(preview, question),
            notice=self.screen.notice,
        )
        result = self._run(preview)
        if self.options.json:
            terminal.show_json(result)
        else:
            self.screen.show_result(result)

    def _profile(self, sourced: SourcedPrompt) -> VersionedProfile:
        prompt = sourced.prompt
        if self.pipeline.profile_file is None and isinstance(prompt, Sheet) and prompt.asks_for:
            raise UsageError(wording.profile_needed(prompt.asks_for))
        return self.pipeline.read_profile()

    def _last_look(self, preview: Preview, profile: VersionedProfile) -> Preview:
        stays = preview.prepared.review.stays
        if not stays or self.options.yes:
            return preview
        if not self.screen.has_keyboard():
            if sys.stderr.isatty():
                self.screen.notice(wording.stays_count(len(stays)))
            return preview
        return LastLook(self.pipeline, self._ask_line, self.screen.notice).at(preview, profile)

    def _ask_line(self, preview: Preview, question: str) -> str | None:
        self._show_prompt(preview, asking=True)
        return self.screen.ask_line(question)

    def _show_dry_run(self, preview: Preview) -> None:
        outgoing, tags = preview.prepared.outgoing, preview.prepared.sanitiser.tags
        if self.options.json:
            terminal.show_dry_run_json(preview)
            return
        terminal.show_dry_run(outgoing.text)
        if tags and sys.stderr.isatty():
            self.screen.notice(wording.known_here_only(tags))
        if stays := preview.prepared.review.stays:
            self.screen.notice(wording.stays_line(stays))
        self.screen.notice(wording.dry_run(len(outgoing.ids), preview.sourced.prompt_id))

    def _ask(self, preview: Preview, question: str) -> bool | None:
        if self.screen.has_keyboard():
            self._show_prompt(preview, asking=True)
        return self.screen.ask(question)

    def _show_prompt(self, preview: Preview, *, asking: bool = False) -> None:
        self.screen.show_prompt(preview.prepared, asking=asking)

    def _run(self, preview: Preview) -> RunResult:
        try:
            return self.pipeline.run(preview, lambda event: self._show(preview, event), end_if_signalled)
        except KeyboardInterrupt:
            if self._complete:
                self.screen.notice(MAY_BE_HANDED_ON)
            raise

    def _show(self, preview: Preview, event: RunEvent) -> None:
        match event:
            case Notice(text=text):
                self.screen.notice(text)
            case ReplyBegins():
                self._show_prompt(preview)
                self.screen.begin_reply()
            case ReplyText(text=text) if not self.options.json:
                self.screen.show_text(text)
            case ReplyComplete():
                self._complete = True


def require_consent(
    request: ConsentRequest,
    *,
    yes: bool,
    ask: Callable[[str], bool | None],
    notice: Callable[[str], None],
) -> None:
    """Return if the person has agreed to the fields that the sheet asks for, or agrees now.

    Args:
        request: the fields and forms to agree to.
        yes: the person agreed with a flag, for this run only.
        ask: asks the person a question. It returns None if no person can answer.
        notice: shows the person a line.

    Raises:
        PrivacyRefused: the person declined, or no person can answer.
        ProfileError: the remembered agreements cannot be read.
    """
    if yes or request.profile_file is None:
        return
    state = request.state()
    if state is ConsentState.GIVEN:
        notice(wording.agreed_before(request.profile_file))
    if state is not ConsentState.NEEDED:
        return
    answer = ask(wording.question(request.sourced, request.profile, request.mode, request.profile_file))
    if answer is None:
        raise PrivacyRefused(wording.nobody_to_agree(request.levels))
    if not answer:
        raise Declined(wording.DECLINED)
    try:
        request.remember()
    except ProfileError as err:
        notice(wording.asked_again(err))
