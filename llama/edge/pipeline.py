"""The device's run, step by step: find the sheet, prepare it, ask for consent, meet the cloud, run, present.

Every way of using the device drives this one: the terminal, the page, a program. Results and events are typed; whoever
drives it chooses the words and the screen.

Knows: the device, the sheets, the profile's file, the consents, the order of things.
Does not know: flags, screens, sentences, HTTP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from llama.client.link import Link
from llama.edge.cloud_connector import CloudConnector
from llama.edge.consent import ConsentRequest
from llama.edge.device import Device
from llama.edge.generation import GeneratedReply, GenerationSettings, RoundTrip, generate_reply, reply_limit
from llama.edge.sheet_source import SheetSource
from llama.edge.views import Views, holdings_of, views_of
from llama.privacy.policy import DataKind
from llama.privacy.preparing import Prepared
from llama.privacy.profile import Profile, parse, read_raw
from llama.privacy.restoring import Restorer
from llama.privacy.sanitiser import Mode
from llama.prompt import SourcedPrompt
from llama.sampling_params import SamplingParams
from llama.sheets import Sheet
from llama.wire import DeliveryStatus, Welcome


@dataclass(frozen=True)
class RunSettings:
    """What is the same for every run of this device.

    Attributes:
        sampling: how the cloud chooses tokens.
        mode: ``schema`` or ``off``, as of ``llama.privacy.sanitiser``.
        max_gen_len: most tokens of a reply; None is what the sheet says, or whatever the context leaves.
    """

    sampling: SamplingParams
    mode: Mode = "schema"
    max_gen_len: int | None = None


@dataclass(frozen=True)
class VersionedProfile:
    """A profile as its file was when it was read; ``version`` is empty where no file was given."""

    profile: Profile
    version: str = ""


@dataclass(frozen=True)
class Preview:
    """A prompt as the person may see it before anything leaves; what runs is this, not another reading of the files."""

    sourced: SourcedPrompt
    profile: Profile
    profile_version: str
    prepared: Prepared = field(repr=False)
    mode: Mode

    @property
    def sheet(self) -> Sheet | None:
        """The sheet, or None where the prompt is the person's own words."""
        return self.sourced.prompt if isinstance(self.sourced.prompt, Sheet) else None

    @property
    def missing(self) -> tuple[str, ...]:
        """The fields that the sheet asks for and the profile does not have."""
        asked = () if self.sheet is None else self.sheet.asks_for
        return tuple(name for name in asked if self.profile.find(name) is None)

    @property
    def digest(self) -> str:
        """A name that is equal for what is the same to the person: whose sheet, what would leave, which profile."""
        parts = (self.sourced.origin, self.sourced.prompt_id, self.profile_version, self.prepared.outgoing.text)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


@dataclass(frozen=True)
class Notice:
    """The connection retries. ``silent``: the cloud is late with an answer, and did not say that it lives."""

    text: str
    silent: bool


@dataclass(frozen=True)
class CloudMet:
    """The cloud has the other half of this split; ``welcome`` is what it said."""

    welcome: Welcome


@dataclass(frozen=True)
class ReplyBegins:
    """All is ready, and nothing of the prompt has left."""


@dataclass(frozen=True)
class ReplyText:
    """A new piece of the reply, with the tags put back; it may be empty."""

    text: str = field(repr=False)


@dataclass(frozen=True)
class RoundTripDone:
    """A round trip to the cloud; given only where the run is timed."""

    trip: RoundTrip


@dataclass(frozen=True)
class ReplyComplete:
    """The reply is complete, and the cloud is about to be asked to finish it.

    From here on the cloud may have handed the reply on, whatever becomes of its answer.
    """


RunEvent = Notice | CloudMet | ReplyBegins | ReplyText | RoundTripDone | ReplyComplete


@dataclass(frozen=True)
class RunResult:
    """What came of a prompt.

    Attributes:
        preview: what was run.
        welcome: the cloud that has run it.
        reply: as the model gave it, with tags.
        text: as the person reads it.
        restored: tags that were put back.
        left: texts of a tag's shape that were not.
        holdings: all that there is of the run, for ``policy.view``.
    """

    preview: Preview
    welcome: Welcome
    reply: GeneratedReply
    text: str = field(repr=False)
    restored: int
    left: int
    holdings: Mapping[DataKind, str] = field(repr=False)

    def views(self) -> Views:
        """Make the table of who saw what."""
        return views_of(
            self.holdings,
            vendor=self.preview.sourced.party,
            raw=self.preview.mode == "off",
            delivered=self.reply.copy is DeliveryStatus.QUEUED,
        )


class RunPipeline:
    """The steps of a run, in order; a caller may look at what each gives before it takes the next.

    Args:
        device: the edge half.
        source: where sheets come from.
        cloud: how the cloud is reached; None where nothing is run.
        profile_file: the person's profile, if they have one.
        settings: of every run.
    """

    def __init__(
        self,
        device: Device,
        source: SheetSource,
        cloud: CloudConnector | None,
        profile_file: str | None,
        settings: RunSettings,
    ) -> None:
        self.device, self.source, self.cloud = device, source, cloud
        self.profile_file, self.settings = profile_file, settings

    def find(self, prompt_id: str, check: Callable[[], None] | None = None) -> SourcedPrompt:
        """Get the prompt. ``check`` and errors are as of ``SheetSource.find``."""
        return self.source.find(prompt_id, check)

    def read_profile(self) -> VersionedProfile:
        """Read the profile as its file is now; an empty one where no file was given.

        Raises:
            ProfileError: it cannot be read or used.
        """
        if self.profile_file is None:
            return VersionedProfile(Profile())
        raw = read_raw(self.profile_file)
        return VersionedProfile(parse(raw, f"profile {self.profile_file}"), version_of(raw))

    def prepare(self, sourced: SourcedPrompt, profile: VersionedProfile) -> Preview:
        """Sanitise the prompt and merge it with the profile.

        Raises:
            PrivacyRefused: the gate has found a secret in what would leave.
            PromptError: it is too long, or cannot be written in the model's vocabulary.
        """
        mode = self.settings.mode
        prepared = self.device.prepare(sourced, profile.profile, mode)
        return Preview(sourced, profile.profile, profile.version, prepared, mode)

    def consent(self, preview: Preview) -> ConsentRequest:
        """Give what the person has to agree to before :meth:`run`."""
        return ConsentRequest(preview.sourced, preview.profile, self.profile_file, preview.mode)

    def run(
        self,
        preview: Preview,
        on_event: Callable[[RunEvent], None],
        check: Callable[[], None] = lambda: None,
        *,
        timed: bool = False,
    ) -> RunResult:
        """Run a prepared prompt to which the person has agreed.

        Args:
            preview: what is sent.
            on_event: called with every event. It may raise to end the run, which is then never finished.
            check: called before each request, and several times a second while an answer is awaited; it may raise, too.
            timed: both halves measure their stages, and every round trip is an event.

        Raises:
            CheckpointError: the cloud has another split's half.
            PromptError: there is no room for a reply.
            LinkError: the cloud is gone, refuses, or says another text than the ids say.
        """
        assert self.cloud is not None
        link: Link = self.cloud.link(lambda text: on_event(Notice(text, link.silent)), check)
        with link:
            welcome = self.device.meet(link)
            on_event(CloudMet(welcome))
            return _generate(self, link, welcome, preview, on_event, check, timed)


def _generate(
    pipeline: RunPipeline,
    link: Link,
    welcome: Welcome,
    preview: Preview,
    on_event: Callable[[RunEvent], None],
    check: Callable[[], None],
    timed: bool,
) -> RunResult:
    """Run a prompt over a connection to a cloud that has been met."""
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

    on_event(ReplyBegins())
    reply = generate_reply(
        prepared.outgoing.ids,
        edge=edge,
        link=link,
        welcome=welcome,
        tokenizer=device.tokenizer,
        settings=GenerationSettings(pipeline.settings.sampling, stop_ids=device.chat.stop_ids, max_gen_len=max_gen_len),
        prompt_id=preview.sourced.prompt_id,
        shared=prepared.outgoing.shared,
        on_text=lambda text: show(restorer.push(text)),
        watch=(lambda trip: on_event(RoundTripDone(trip))) if timed else None,
        between_steps=check,
        on_finish=lambda: on_event(ReplyComplete()),
    )
    show(restorer.finish())
    return _result(preview, welcome, reply, "".join(restored), restorer)


def _result(preview: Preview, welcome: Welcome, reply: GeneratedReply, text: str, restorer: Restorer) -> RunResult:
    held = holdings_of(preview.sourced, preview.profile, preview.prepared, reply, text)
    return RunResult(preview, welcome, reply, text, restorer.restored, restorer.left, held)


def version_of(raw: bytes) -> str:
    """Name the content of a profile's file."""
    return hashlib.sha256(raw).hexdigest()
