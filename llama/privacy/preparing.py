"""Preparation of a prompt: clean it, merge it with the profile, pass the gate. Every screen uses this module."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from llama.chat import ChatFormat, Message
from llama.errors import PromptError
from llama.privacy import gate, merging
from llama.privacy.cautions import cautions
from llama.privacy.gate import Outgoing
from llama.privacy.merging import Passage
from llama.privacy.policy import DataKind
from llama.privacy.profile import Profile, text_of
from llama.privacy.review import Review, review
from llama.privacy.sanitiser import Mode, Sanitiser
from llama.prompt import FILE, OwnWords, SourcedPrompt
from llama.sheets import Sheet
from llama.text.printable import printable
from llama.tokenizer import Tokenizer

CHARS_PER_TOKEN = 16  # far above the average of any language
MAX_TRIES = 4  # to number tags past the ones that a sheet composes around a field


@dataclass(frozen=True)
class Prepared:
    """A prompt that is ready to run.

    Attributes:
        outgoing: the ids and their text.
        dialog: the same as messages, to show to the person.
        sanitiser: holds the tags of this session.
        cautions: warnings for the person before it leaves; for this device's screen only.
        passages: the messages of the dialogue that are the sheet's or the person's; they are its last ones.
        fields: the person's words in them are fields that a sheet asks for.
    """

    outgoing: Outgoing
    dialog: tuple[Message, ...] = field(repr=False)
    sanitiser: Sanitiser
    cautions: tuple[str, ...] = field(default=(), repr=False)
    passages: tuple[Passage, ...] = field(default=(), repr=False)
    fields: bool = True

    @cached_property
    def review(self) -> Review:
        """What the person looks at before it leaves, with positions in ``dialog``."""
        first = len(self.dialog) - len(self.passages)
        return review(self.passages, self.sanitiser, first=first, fields=self.fields)


def prepare(
    found: SourcedPrompt, profile: Profile, mode: Mode, chat: ChatFormat, tokenizer: Tokenizer, context_length: int
) -> Prepared:
    """Return the prompt, sanitised and merged with the profile.

    Args:
        found: the prompt and its source.
        profile: the person's profile.
        mode: ``schema`` or ``off``.
        chat: the model's chat format.
        tokenizer: the model's tokenizer.
        context_length: tokens that the model can hold. A far longer text is refused unread.

    Raises:
        PrivacyRefused: the gate has found a secret in it.
        PromptError: it is too long, or cannot be written in the model's vocabulary.
    """
    prompt = found.prompt
    if isinstance(prompt, OwnWords):
        _refuse_too_long(sum(len(turn.content) for turn in prompt.dialog), context_length)
        sanitiser = Sanitiser(profile, mode, own=[turn.content for turn in prompt.dialog], asked=())
        passages = merging.own_words(prompt, sanitiser)
    else:
        reserved = list(merging.texts_of(prompt, found.provider_system))
        for _ in range(MAX_TRIES):
            sanitiser = Sanitiser(profile, mode, reserved=reserved, language=prompt.language, asked=prompt.asks_for)
            passages = merging.merge(prompt, sanitiser, party=found.party, provider_system=found.provider_system)
            # Check this before any text is joined: a sheet may place a long field a hundred thousand times.
            _refuse_too_long(sum(passage.characters for passage in passages), context_length)
            composed = merging.tags_composed(passages, sanitiser.tags)
            if not composed:
                break
            reserved += composed
        else:
            raise PromptError(
                "the sheet puts tags around the fields that it asks for; remove these tags from the sheet"
            )
    outgoing = gate.check(passages, sanitiser, chat, tokenizer)
    dialog = [passage.message for passage in passages]
    if chat.default_system is not None and dialog[0].role != "system":
        dialog = [Message("system", chat.default_system), *dialog]
    if outgoing.preface:
        dialog = [Message("the model's chat template", outgoing.preface), *dialog]
    own_sheet = prompt.texts if isinstance(prompt, Sheet) and found.origin.startswith(f"{FILE}:") else ()
    warnings, fields = cautions(passages, sanitiser, own_sheet), not isinstance(prompt, OwnWords)
    return Prepared(outgoing, tuple(dialog), sanitiser, warnings, tuple(passages), fields)


def _refuse_too_long(characters: int, context_length: int) -> None:
    if characters > CHARS_PER_TOKEN * context_length:
        raise PromptError(
            f"the prompt has {characters} characters, but the model's context is {context_length} tokens; shorten it"
        )


def holdings(
    found: SourcedPrompt,
    profile: Profile,
    prepared: Prepared,
    sent: str,
    restored: str,
    counts: str,
    offers: str = "",
) -> dict[DataKind, str]:
    """Return all data of a run as text, for the views that ``policy.view`` makes.

    Args:
        found: the prompt and its channel.
        profile: the person's profile.
        prepared: the prompt that was sent.
        sent: the reply from the model, with tags.
        restored: the reply for the person, with values.
        counts: token counts and times.
        offers: the offers that the provider found for the reply.
    """
    prompt = found.prompt
    shown, sheet, asked = prepared.dialog, "", tuple[str, ...]()
    if not isinstance(prompt, OwnWords):
        shown, asked = prepared.dialog[-1:], prompt.asks_for
        sheet = "\n".join([prompt.system, *prompt.questions]).strip()
    used = [each for name in asked if (each := profile.find(name)) is not None]
    fields = [f"{each.name}: {', '.join(map(text_of, each.values))}" for each in used]
    if others := len(profile.fields) - len(used):
        counted = f"and {others} more" if used else f"{others}"
        asker = "prompt" if isinstance(prompt, OwnWords) else "sheet"
        fields.append(f"{counted} fields that the {asker} does not ask for")
    everything = {
        DataKind.PROFILE: "\n".join(fields),
        DataKind.SANITISED_PROMPT: "\n".join(message.content for message in shown),
        DataKind.PROVIDER_PROMPT: found.provider_system if found.party else sheet,
        DataKind.VENDOR_PROMPT: sheet if found.party else "",
        DataKind.REPLY_WITH_TAGS: sent,
        DataKind.REPLY: restored if restored != printable(sent) else "",  # empty if it has no values
        DataKind.OFFERS: offers,
        DataKind.TIMINGS: counts,
    }
    return {kind: text for kind, text in everything.items() if text}
