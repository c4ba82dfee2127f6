"""The device's run, step by step: find the sheet, prepare it, ask for consent, meet the cloud, run, present.

The terminal, the page and programs all drive this pipeline. Results and events are typed. The driver chooses the words
and the screen.

Knows: the device, the sheets, the profile's file, the consents, the order of things.
Does not know: flags, screens, sentences, HTTP.
"""

from __future__ import annotations

import enum
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from llama.client.link import Link
from llama.edge.cloud_connector import CloudConnector
from llama.edge.consent import ConsentRequest
from llama.edge.device import Device
from llama.edge.generation import GeneratedReply, GenerationSettings, RoundTrip, generate_reply, reply_limit
from llama.edge.history import History, HistoryEntry, RunRecorder, recorded
from llama.edge.session import new_run_id
from llama.edge.sheet_source import SheetSource
from llama.edge.views import Views, holdings_of, views_of
from llama.errors import PrivacyRefused
from llama.privacy.policy import DataKind, FieldPolicy
from llama.privacy.preparing import Prepared
from llama.privacy.profile import PRIVATE_WORDS, Profile, parse, read_raw
from llama.privacy.restoring import Restorer
from llama.privacy.sanitiser import Mode
from llama.prompt import SourcedPrompt
from llama.sampling_params import SamplingParams
from llama.sheets import Sheet
from llama.text.dates import utc
from llama.wire import DeliveryStatus, Welcome


@dataclass(frozen=True)
class RunSettings:
    """Settings of every run of this device.

    Attributes:
        sampling: sampling settings for the cloud.
        mode: ``schema`` or ``off``; see ``llama.privacy.sanitiser``.
        max_gen_len: maximum tokens of a reply; None means the sheet's limit, or the rest of the context.
        strict: refuse a prompt with words that look personal and are not hidden.
    """

    sampling: SamplingParams
    mode: Mode = "schema"
    max_gen_len: int | None = None
    strict: bool = False


@dataclass(frozen=True)
class VersionedProfile:
    """A profile as read from its file. ``version`` is empty if no file was given."""

    profile: Profile
    version: str = ""


class SentForm(enum.StrEnum):
    """Form in which a field of the profile is sent.

    Attributes:
        TAG: as a tag; the value stays here.
        COARSER: as a decade, a city or a band.
        AS_WRITTEN: as the person wrote it, with tags for the secrets that are recognised in it.
    """

    TAG = "tag"
    COARSER = "coarser"
    AS_WRITTEN = "as written"


@dataclass(frozen=True)
class Preview:
    """A prompt that the person can see before anything leaves. The run uses this object and does not reread files.

    ``hidden`` are words that the person makes tags in this run only.
    """

    sourced: SourcedPrompt
    profile: Profile
    profile_version: str
    prepared: Prepared = field(repr=False)
    mode: Mode
    hidden: tuple[str, ...] = field(default=(), repr=False)

    @property
    def sheet(self) -> Sheet | None:
        """The sheet, or None if the prompt is the person's own words."""
        return self.sourced.prompt if isinstance(self.sourced.prompt, Sheet) else None

    @property
    def missing(self) -> tuple[str, ...]:
        """The fields that the sheet asks for and the profile lacks."""
        asked = () if self.sheet is None else self.sheet.asks_for
        return tuple(name for name in asked if self.profile.find(name) is None)

    @property
    def forms(self) -> dict[str, SentForm]:
        """The fields that the sheet asks for and the profile has, each with the form in which it is sent."""
        asked = () if self.sheet is None else self.sheet.asks_for
        return {name: form for name in asked if (form := self._form_of(name)) is not None}

    def _form_of(self, name: str) -> SentForm | None:
        each, sent_as = self.profile.find(name), self.prepared.sanitiser.field_text(name)
        if each is None or sent_as is None:
            return None
        if self.mode == "off" or each.policy is FieldPolicy.OPEN:
            return SentForm.AS_WRITTEN
        is_tag = each.policy is FieldPolicy.SECRET or sent_as.text.startswith("[")
        return SentForm.TAG if is_tag else SentForm.COARSER

    @property
    def digest(self) -> str:
        """SHA-256 of everything that matters to the person: origin and id of the sheet, profile version, sent text."""
        parts = (self.sourced.origin, self.sourced.prompt_id, self.profile_version, self.prepared.outgoing.text)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


@dataclass(frozen=True)
class Notice:
    """Notice that the connection retries. ``silent``: an answer is late, and no heartbeat came."""

    text: str
    silent: bool


@dataclass(frozen=True)
class CloudMet:
    """The cloud has answered and has the other half of this split. ``welcome`` is its answer."""

    welcome: Welcome


@dataclass(frozen=True)
class ReplyBegins:
    """Everything is ready, and no part of the prompt has left."""


@dataclass(frozen=True)
class ReplyText:
    """A new piece of the reply, with tags replaced by their values. It may be empty."""

    text: str = field(repr=False)


@dataclass(frozen=True)
class RoundTripDone:
    """A round trip to the cloud. Only timed runs have this event."""

    trip: RoundTrip


@dataclass(frozen=True)
class ReplyComplete:
    """The reply is complete, and the device is about to ask the cloud to finish it.

    From here on the cloud may have handed the reply on, even if its answer is lost.
    """


RunEvent = Notice | CloudMet | ReplyBegins | ReplyText | RoundTripDone | ReplyComplete


@dataclass(frozen=True)
class RunResult:
    """Result of a run.

    Attributes:
        preview: the prompt that ran.
        welcome: the Welcome of the cloud that ran it.
        reply: the reply as the model wrote it, with tags.
        text: the reply as the person reads it.
        restored: number of tags that were replaced by their values.
        left: number of texts in a tag's shape that were not replaced.
        holdings: all data of the run by kind, for ``policy.view``.
        run_id: id of the run, by which the cloud can forget it.
    """

    preview: Preview
    welcome: Welcome
    reply: GeneratedReply
    text: str = field(repr=False)
    restored: int
    left: int
    holdings: Mapping[DataKind, str] = field(repr=False)
    run_id: bytes = b""

    def views(self) -> Views:
        """Make the table of who saw what."""
        return views_of(
            self.holdings,
            vendor=self.preview.sourced.party,
            raw=self.preview.mode == "off",
            delivered=self.reply.copy is DeliveryStatus.QUEUED,
        )


class RunPipeline:
    """The steps of a run, in order. A caller can inspect the result of each step before the next.

    Args:
        device: the edge half.
        source: source of sheets.
        cloud: connector to the cloud; None if no prompt is run.
        profile_file: path of the person's profile, if there is one.
        settings: settings of every run.
        history: the person's history; None if they keep none.
    """

    def __init__(
        self,
        device: Device,
        source: SheetSource,
        cloud: CloudConnector | None,
        profile_file: str | None,
        settings: RunSettings,
        history: History | None = None,
    ) -> None:
        self.history = history
        self.device, self.source, self.cloud = device, source, cloud
        self.profile_file, self.settings = profile_file, settings

    def find(self, prompt_id: str, check: Callable[[], None] | None = None) -> SourcedPrompt:
        """Return the prompt. See ``SheetSource.find`` for ``check`` and errors."""
        return self.source.find(prompt_id, check)

    def read_profile(self) -> VersionedProfile:
        """Read the profile's file now. Return an empty profile if no file was given.

        Raises:
            ProfileError: the profile cannot be read or used.
        """
        if self.profile_file is None:
            return VersionedProfile(Profile())
        raw = read_raw(self.profile_file)
        return VersionedProfile(parse(raw, f"profile {self.profile_file}"), version_of(raw))

    def prepare(self, sourced: SourcedPrompt, profile: VersionedProfile, hidden: Sequence[str] = ()) -> Preview:
        """Sanitise the prompt and merge it with the profile.

        Args:
            sourced: the prompt.
            profile: the person's profile.
            hidden: words that become tags in this run only.

        Raises:
            PrivacyRefused: the gate found a secret in the text that would leave.
            PromptError: the prompt is too long, or cannot be written in the model's vocabulary.
        """
        mode = self.settings.mode
        prepared = self.device.prepare(sourced, profile.profile.with_private_words(hidden), mode)
        return Preview(sourced, profile.profile, profile.version, prepared, mode, tuple(hidden))

    def refuse_what_stays(self, preview: Preview) -> None:
        """Refuse a prompt with words that look personal and would leave as they are, if the settings are strict.

        Raises:
            PrivacyRefused: it has such words. The error has their number, not the words.
        """
        if self.settings.strict and (stays := preview.prepared.review.stays):
            raise PrivacyRefused(
                f"--strict: {len(stays)} of your words or numbers may be personal and would leave as written; nothing "
                f"was sent; see them with --dry_run, add them to {PRIVATE_WORDS} in your profile, or reword the text"
            )

    def consent(self, preview: Preview) -> ConsentRequest:
        """Return the fields that the person must agree to before :meth:`run`."""
        return ConsentRequest(preview.sourced, preview.profile, self.profile_file, preview.mode)

    def run(
        self,
        preview: Preview,
        on_event: Callable[[RunEvent], None],
        check: Callable[[], None] = lambda: None,
        *,
        timed: bool = False,
    ) -> RunResult:
        """Run a prepared prompt that the person has agreed to.

        Args:
            preview: the prompt to send.
            on_event: called with every event. It may raise to end the run, which the cloud then never finishes.
            check: called before each request, and several times a second while an answer is late. It may raise, too.
            timed: both halves measure their stages, and every round trip is an event.

        Raises:
            PrivacyRefused: words that look personal would leave, and the settings are strict.
            CheckpointError: the cloud has a half of another split.
            PromptError: there is no room for a reply.
            LinkError: the cloud is gone or refuses, or its text differs from the text of the ids.
            HistoryError: the history cannot be written, and nothing was sent.
        """
        assert self.cloud is not None
        self.refuse_what_stays(preview)
        link: Link = self.cloud.link(lambda text: on_event(Notice(text, link.silent)), check)
        with link:
            welcome = self.device.meet(link)
            on_event(CloudMet(welcome))
            run_id = new_run_id()
            entry = self._entry(preview, run_id)
            with recorded(self.history, entry, lambda text: on_event(Notice(text, silent=False))) as recorder:
                return _generate(self, link, welcome, preview, run_id, recorder, on_event, check, timed)

    def _entry(self, preview: Preview, run_id: bytes) -> HistoryEntry:
        """Return what the history says of a run before anything has left."""
        assert self.cloud is not None
        sourced, sheet, prepared = preview.sourced, preview.sheet, preview.prepared
        return HistoryEntry(
            run_id=run_id.hex(),
            began_at=utc(time.time()),
            cloud=self.cloud.address,
            prompt_id=sourced.prompt_id,
            own_words=sheet is None,
            title="" if sheet is None else sheet.title,
            origin=sourced.origin,
            third_party=sourced.party,
            fields={name: str(form) for name, form in preview.forms.items()},
            tags=tuple(tag for tag in prepared.sanitiser.tags if tag in prepared.outgoing.text),
        )


def _generate(
    pipeline: RunPipeline,
    link: Link,
    welcome: Welcome,
    preview: Preview,
    run_id: bytes,
    recorder: RunRecorder,
    on_event: Callable[[RunEvent], None],
    check: Callable[[], None],
    timed: bool,
) -> RunResult:
    """Run a prompt over a connection to a cloud whose Welcome was checked."""
    device, prepared, max_gen_len = pipeline.device, preview.prepared, pipeline.settings.max_gen_len
    if max_gen_len is None and preview.sheet is not None:
        max_gen_len = preview.sheet.max_gen_len
    reply_limit(len(prepared.outgoing.ids), max_gen_len, welcome.max_seq_len)
    with link.growing():
        edge = device.make_ready(welcome)
    restorer, restored = Restorer(prepared.sanitiser.tags), list[str]()

    def show(text: str) -> None:
        restored.append(text)
        on_event(ReplyText(text))

    def complete() -> None:
        on_event(ReplyComplete())
        recorder.complete()

    on_event(ReplyBegins())
    reply = generate_reply(
        prepared.outgoing.ids,
        edge=edge,
        link=link,
        welcome=welcome,
        tokenizer=device.tokenizer,
        settings=GenerationSettings(pipeline.settings.sampling, stop_ids=device.chat.stop_ids, max_gen_len=max_gen_len),
        prompt_id=preview.sourced.prompt_id,
        run_id=run_id,
        shared=prepared.outgoing.shared,
        on_text=lambda text: show(restorer.push(text)),
        watch=(lambda trip: on_event(RoundTripDone(trip))) if timed else None,
        between_steps=check,
        on_finish=complete,
    )
    kept = "" if preview.mode == "off" else reply.text  # the reply to an unsanitised prompt may have any value in it
    recorder.finish(kept, reply.offers, reply.copy)
    show(restorer.finish())
    text = "".join(restored)
    held = holdings_of(preview.sourced, preview.profile, preview.prepared, reply, text)
    return RunResult(preview, welcome, reply, text, restorer.restored, restorer.left, held, run_id)


def version_of(raw: bytes) -> str:
    """Return the SHA-256 of a profile's file, in hexadecimal."""
    return hashlib.sha256(raw).hexdigest()
