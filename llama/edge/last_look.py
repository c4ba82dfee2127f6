"""The last look before a prompt leaves, at the terminal: the person hides words that nothing has recognised.

Knows: the order of questions, the answers. Does not know: how the prompt is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llama.edge import wording
from llama.edge.pipeline import Preview, RunPipeline, VersionedProfile
from llama.edge.profile_file import add_private_words
from llama.errors import Declined, ProfileError
from llama.privacy.review import LooksPersonal, written_in

_NUMBERS = re.compile(r"\d{1,3}(?:[\s,]+\d{1,3}){0,50}")
_ALWAYS = re.compile(r"p[\s:]+(?=\S)", re.IGNORECASE)
_YES = frozenset({"y", "yes", "ya"})
_NO = frozenset({"n", "no", "tidak"})


@dataclass(frozen=True)
class Answer:
    """What the person typed.

    Attributes:
        words: the words to hide.
        always: they are also added to the profile.
        unknown: what was typed, if it is neither a number of the list nor a word of the prompt.
    """

    words: tuple[str, ...] = field(default=(), repr=False)
    always: bool = False
    unknown: str = field(default="", repr=False)


def answer_of(typed: str, stays: Sequence[LooksPersonal], own: str) -> Answer:
    """Return the meaning of an answer.

    Args:
        typed: the line, which is not empty.
        stays: the words that look personal, as they are numbered from 1.
        own: the person's own words, in which another word must occur.
    """
    always = _ALWAYS.match(typed)
    what = typed[always.end() :].strip() if always else typed
    if _NUMBERS.fullmatch(what):
        numbers = [int(each) for each in re.findall(r"\d+", what)]
        if all(0 < number <= len(stays) for number in numbers):
            return Answer(tuple(stays[number - 1].text for number in numbers), bool(always))
    written = written_in(own, what)
    return Answer((written,), bool(always)) if written else Answer(unknown=what)


class LastLook:
    """The questions of one prompt.

    Args:
        pipeline: prepares the prompt again when a word is hidden.
        ask: shows the prompt and the question, and returns the typed line, or None if no person can answer.
        notice: shows the person a line.
    """

    def __init__(
        self, pipeline: RunPipeline, ask: Callable[[Preview, str], str | None], notice: Callable[[str], None]
    ) -> None:
        self.pipeline, self._ask, self._notice = pipeline, ask, notice

    def at(self, preview: Preview, profile: VersionedProfile) -> Preview:
        """Return the prompt that the person has agreed to send. It asks only if something looks personal.

        Raises:
            Declined: the person wants nothing sent, or has closed the terminal.
            SplitLlamaError: the prompt cannot be prepared again.
        """
        if not preview.prepared.review.stays:
            return preview
        hidden = list[tuple[str, ...]]()  # by answer, for undo
        while True:
            stays = preview.prepared.review.stays
            may_send = not (stays and self.pipeline.settings.strict)
            profile_file = self.pipeline.profile_file
            question = wording.last_look(stays, profile_file, can_undo=bool(hidden), may_send=may_send)
            typed = self._ask(preview, question)
            if typed is None or typed.casefold() in _NO:
                raise Declined(wording.DECLINED)
            if typed.casefold() in _YES and may_send:
                return preview
            if not typed or typed.casefold() in _YES:
                continue
            if typed.casefold() == "u" and hidden:
                hidden.pop()
            else:
                answer = answer_of(typed, stays, preview.prepared.review.words_in(preview.prepared.dialog))
                if answer.unknown:
                    self._notice(wording.not_in_prompt(answer.unknown))
                    continue
                if answer.always and self._add(answer.words):
                    profile = self.pipeline.read_profile()
                else:
                    hidden.append(answer.words)
                    self._notice(wording.hidden(answer.words, None))
            words = [word for each in hidden for word in each]
            preview = self.pipeline.prepare(preview.sourced, profile, words)

    def _add(self, words: Sequence[str]) -> bool:
        """Add words to the profile. If that fails, say why; they are then to be hidden in this run only."""
        if self.pipeline.profile_file is None:
            self._notice(wording.NO_PROFILE)
            return False
        try:
            add_private_words(self.pipeline.profile_file, words)
        except ProfileError as err:
            self._notice(str(err))
            return False
        self._notice(wording.hidden(words, self.pipeline.profile_file))
        return True
