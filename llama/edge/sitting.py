"""One person before the page: what they have chosen, the run that is under way, and all that can be told of it.

Two threads of its own. The *worker* loads the edge half and runs prompts, one at a time (OpenMP keeps a team of threads
per calling thread). The *lookout* asks the cloud every few seconds whether it is there, while nothing else does.

Who has stopped a run does not wait for the worker, whatever that waits for: the run is over at once, and the worker
finds out. But a run that the cloud is being told to finish can no longer be called stopped.

Knows: the device, the profile's file, the consents. Does not know: HTTP, what the page looks like.
"""

from __future__ import annotations

import hashlib
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from llama.client.link import Link, Stopped
from llama.disk import replace_file
from llama.edge import consent
from llama.edge.asking import Answer, Device, SheetSource, copy_in_words
from llama.edge.generation import MAY_BE_HANDED_ON, RoundTrip
from llama.edge.terminal import ending, not_held, timing_line
from llama.errors import (
    CheckpointError,
    CloudUnreachable,
    MemoryCeilingReached,
    ProfileError,
    ProtocolMismatch,
    RequestUnanswered,
    SplitLlamaError,
)
from llama.keys import LinkKeys
from llama.memory_ceiling import MemoryCeiling, of_a_client
from llama.privacy.policy import SEES, FieldPolicy, Party, label_of, view
from llama.privacy.preparing import Prepared
from llama.privacy.profile import Profile, ProfileField, parse, read_raw, text_of
from llama.privacy.sanitiser import Mode
from llama.prompt import Found
from llama.sampling_params import SamplingParams
from llama.sheets import Sheet, party_of
from llama.text.printable import printable
from llama.texts import encoding_problem, without_marks
from llama.wire import Copy, Offer, SheetEntry, Welcome

LOOKOUT_S = 3.0
FINISH_GRACE_S = 0.3  # after a stop, for a cloud that is just saying that the reply is finished
END_S = 1.0  # for the worker and what it tells the cloud, when the program ends
ABSENT = "absent"  # version of a profile's file that is not there
REMEMBERED_EVENTS = 4096  # a page that missed more looks at everything anew

Phase = Literal["asking", "prefill", "decoding", "done", "failed", "stopped"]
CloudState = Literal["connecting", "here", "away", "wrong"]


class Conflict(Exception):
    """What was asked for does not fit what is so now; the message says why."""


class Events:
    """What happened, numbered, for pages that follow; any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED_EVENTS)
        self._wakers: set[Callable[[], None]] = set()
        self.last = 0
        self.ended = False

    def end(self) -> None:
        """No more will happen; takes no lock, since a signal's handler may call it."""
        self.ended = True
        for wake in tuple(self._wakers):
            wake()

    def add(self, kind: str, **fields: Any) -> None:
        """One more; everybody who follows is woken."""
        with self._lock:
            self.last += 1
            self._lines.append((self.last, msgspec.json.encode({"n": self.last, "type": kind, **fields}) + b"\n"))
            wakers = list(self._wakers)
        for wake in wakers:
            wake()

    def since(self, n: int) -> list[tuple[int, bytes]]:
        """All after the n-th; a single ``reset`` for who is too far behind, or of an earlier start of the program."""
        with self._lock:
            oldest = self._lines[0][0] if self._lines else self.last + 1
            if n > self.last or n + 1 < oldest:
                return [(self.last, msgspec.json.encode({"n": self.last, "type": "reset"}) + b"\n")]
            return [line for line in self._lines if line[0] > n]

    def follow(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` after each event."""
        with self._lock:
            self._wakers.add(wake)

    def leave(self, wake: Callable[[], None]) -> None:
        """No longer."""
        with self._lock:
            self._wakers.discard(wake)

    @property
    def followed(self) -> bool:
        """Whether a page is open."""
        return bool(self._wakers)


@dataclass(frozen=True)
class _Seen:
    """A prompt as the person has seen it; what runs is this, not another reading of the same files."""

    found: Found
    profile: Profile
    profile_version: str
    prepared: Prepared = field(repr=False)

    @property
    def digest(self) -> str:
        """Equal for what is the same to the person: whose sheet, what would leave, with which profile."""
        parts = (self.found.origin, self.found.prompt_id, self.profile_version, self.prepared.outgoing.text)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


@dataclass
class _Run:
    """The run under way, or the last one; what a page that is opened now needs to know."""

    id: str
    prompt_id: str
    seen: str  # digest of what was seen, and runs
    phase: Phase = "asking"
    prefill: dict[str, int] | None = None
    text: str = field(default="", repr=False)
    iteration: dict[str, Any] | None = field(default=None, repr=False)
    done: dict[str, Any] | None = field(default=None, repr=False)
    error: str | None = None
    stopped_at: float | None = None  # when the person had enough of it, in monotonic seconds
    finishing: bool = False  # the cloud is told, or was, that the reply is complete

    @property
    def is_over(self) -> bool:
        return self.phase in ("done", "failed", "stopped")


class Sitting:
    """Drives one device for one page.

    Args:
        device: the edge half.
        source: where sheets come from.
        cloud: the cloud's address.
        profile_file: the person's profile, if they have one.
        mode: ``schema`` or ``off``.
        sampling: how the cloud chooses.
        max_gen_len: most tokens of a reply, or None.
        deadline_s: how long the cloud may be silent in a run.
        prompt_id: the sheet that is chosen at first, or empty.
        keys: its own and the cloud's, if keys are used.
        restart_deadline_s: how long a run waits for a cloud that had answered and then went away.
        ceiling: of the process's memory; by default a little more than it has of its own accord.

    Attributes:
        failure: why the program has to end, where it has to.
    """

    def __init__(
        self, device: Device, source: SheetSource, cloud: str, *, profile_file: str | None, mode: Mode,
        sampling: SamplingParams, max_gen_len: int | None, deadline_s: float, prompt_id: str = "",
        keys: LinkKeys | None = None, restart_deadline_s: float | None = None, ceiling: MemoryCeiling | None = None,
    ) -> None:  # fmt: skip
        self.device, self.source, self.address, self.profile_file, self.mode = device, source, cloud, profile_file, mode
        self.sampling, self.max_gen_len, self.deadline_s, self.prompt_id = sampling, max_gen_len, deadline_s, prompt_id
        self.keys, self.restart_deadline_s, self.events = keys, restart_deadline_s, Events()
        self.ceiling = ceiling or of_a_client()  # one for all links: what the process has is all of theirs
        self.failure: MemoryCeilingReached | None = None
        source.ceiling, source.while_waiting = self.ceiling, self._leave_if_ending
        self._lock = threading.Lock()  # of what follows
        self._seen: dict[str, _Seen] = {}
        self._run: _Run | None = None
        self._entries: tuple[SheetEntry, ...] | None = None if source.is_the_cloud else source.entries()
        self._cloud_state: CloudState = "connecting"
        self._cloud_says = f"looking for the cloud at {cloud}"
        self._closing = threading.Event()
        self._looks = 0  # at sheets, that are not over
        self._jobs: queue.SimpleQueue[tuple[_Run, _Seen] | None] = queue.SimpleQueue()
        # Daemons: no cloud, and no half that is being loaded, keeps the program from ending.
        self._worker = threading.Thread(target=self._work_off, name="worker", daemon=True)
        self._lookout = threading.Thread(target=self._look_out, name="lookout", daemon=True)
        self._profile()  # an unusable profile is told at once,
        Link(cloud, keys=keys).close()  # and so is what is no address
        self._worker.start()

    def start(self) -> None:
        """Begin to look out for the cloud."""
        self._lookout.start()

    def close(self) -> bool:
        """Stop all that is under way, and wait for it a little. False where somebody is still at something."""
        self._closing.set()
        self.events.end()
        self._jobs.put(None)
        give_up = time.monotonic() + END_S
        self._worker.join(END_S)
        while self._looks and time.monotonic() < give_up:
            time.sleep(0.01)
        return not self._worker.is_alive() and not self._looks

    # ---- what a page asks for

    def state(self) -> dict[str, Any]:
        """Everything that a page needs to begin with."""
        half = self.device.half
        profile, _ = self._profile()
        with self._lock:
            last_event = self.events.last  # first: what happens meanwhile is told once more
            return {
                "cloud": self._cloud(),
                "model": {
                    "n_layers": half.args.n_layers, "split_layer": half.split_layer, "dim": half.args.dim,
                    "vocab_size": half.args.vocab_size,
                },
                "sheets": [_entry(entry) for entry in self._entries or ()],
                "prompt_id": self.prompt_id,
                "profile": None if self.profile_file is None else {
                    "file": Path(self.profile_file).name,
                    "fields": [_profile_field(each) for each in profile.fields.values()],
                },
                "sanitise": self.mode,
                "run": None if self._run is None else _snapshot(self._run),
                "last_event": last_event,
            }  # fmt: skip

    def look_at(self, prompt_id: str) -> dict[str, Any]:
        """A sheet with this person's profile: all that would leave, and what must be agreed to.

        Raises:
            SplitLlamaError: it cannot be had or prepared.
        """
        with self._lock:
            self._looks += 1
        try:
            return self._look_at(prompt_id)
        finally:
            with self._lock:
                self._looks -= 1

    def _look_at(self, prompt_id: str) -> dict[str, Any]:
        profile, version = self._profile()
        with self._under_the_ceiling():
            found = self.source.find(prompt_id)
        prepared = self.device.prepare(found, profile, self.mode)
        seen = _Seen(found, profile, version, prepared)
        with self._lock:
            self._seen[prompt_id] = seen
        prompt = found.prompt
        sheet = prompt if isinstance(prompt, Sheet) else None
        provider, own = found.provider_system, "" if sheet is None else sheet.system
        # As llama.privacy.merging puts it: a third party's words come after the provider's, its own instead of them.
        system = [("the provider", provider if found.party or not own else own)]
        if found.party:
            system.append((consent.origin_in_words(found), own))
        asked = {} if sheet is None else consent.forms_in_words(sheet, profile, self.mode)
        return {
            "prompt_id": prompt_id,
            "seen": seen.digest,
            "title": printable(sheet.title) if sheet is not None else "your own words",
            "party": found.party,
            "whose": printable(consent.origin_in_words(found)) if sheet is not None else "you",
            "task": sheet.task if sheet is not None else "answer",
            "system_prompt": [
                {"whose": whose, "text": printable(text.strip())} for whose, text in system if text.strip()
            ],
            "sheet": {"system": printable(sheet.system), "questions": [printable(each) for each in sheet.questions]}
            if sheet is not None
            else None,
            "fields": list(self._fates(sheet, profile, prepared)),
            "prompt": [{"role": each.role, "content": printable(each.content)} for each in prepared.dialog],
            "tags": {tag: printable(value) for tag, value in prepared.sanitiser.tags.items()},
            "cautions": [printable(each) for each in prepared.cautions],
            "tokens": len(prepared.outgoing.ids),
            "consent": {
                "needed": self._needs_consent(found, profile),
                "question": printable(consent.heading(found)) if sheet is not None else "",
                "fields": [{"name": name, "form": form} for name, form in asked.items()],
                "notes": [printable(each) for each in consent.notes(found, self.mode, self.profile_file or "")],
            },
        }

    def begin(self, prompt_id: str, agree: bool, seen_as: str | None = None) -> str:
        """Start a run of a sheet as it was last looked at; gives its id.

        Args:
            prompt_id: which.
            agree: to what the sheet asks for.
            seen_as: ``seen`` of what :meth:`look_at` gave to whoever starts it, if others may have looked since.

        Raises:
            Conflict: one is under way, the sheet was not looked at, or it or the profile has changed since.
            PermissionError: the person must agree first.
            ProfileError: the agreement cannot be read or written down.
        """
        _, version = self._profile()
        with self._lock:
            seen = self._seen.get(prompt_id)
            if self._run is not None and not self._run.is_over:
                raise Conflict("a run is under way; stop it first")
            if seen is None:
                raise Conflict("look at the sheet first")
            if seen_as is not None and seen_as != seen.digest:
                raise Conflict("the sheet has changed since you saw this prompt; look at it again")
            if seen.profile_version != version:
                raise Conflict("your profile has changed since you saw this prompt; look at it again")
            if self._needs_consent(seen.found, seen.profile):
                if not agree:
                    raise PermissionError("the sheet asks for fields of your profile")
                assert self.profile_file is not None
                consent.remember(seen.found, seen.profile, self.profile_file, self.mode)
            run = self._run = _Run(secrets.token_hex(8), prompt_id, seen.digest)
            self.events.add("begun", run=_snapshot(run), prompt_tokens=len(seen.prepared.outgoing.ids))
        self._jobs.put((run, seen))
        return run.id

    def stop(self, run_id: str | None = None) -> None:
        """End the run that is under way, if one is (and is the one that is meant): unless it is being finished
        already, it never is, so nobody gets a copy; and the next one may begin.
        """
        with self._lock:
            run = self._run
            if run is None or run_id not in (None, run.id) or run.stopped_at is not None:
                return
            run.stopped_at = time.monotonic()
            if not run.finishing:
                self._set_over(run, "stopped")

    def profile_text(self) -> tuple[str, str]:
        """The profile's file, and a version to give back when it is written.

        Raises:
            ProfileError: there is none, or it cannot be read.
        """
        if self.profile_file is None:
            raise ProfileError("no profile was given; start the program with --profile_file")
        if not Path(self.profile_file).exists():  # deleted meanwhile: it may be written anew
            return "", ABSENT
        raw = read_raw(self.profile_file)
        if problem := encoding_problem(raw):  # shown as well as can be, it would be written back so
            raise ProfileError(f"profile {self.profile_file}: {problem}")
        return without_marks(raw.decode(errors="replace")), _version(raw)

    def write_profile(self, text: str, version: str) -> str:
        """Replace the profile's file, as a whole; gives its new version.

        Raises:
            Conflict: the file has changed since ``version`` was read.
            ProfileError: the text is no profile, or cannot be written.
        """
        if self.profile_file is None:
            raise ProfileError("no profile was given; start the program with --profile_file")
        raw = text.replace("\r\n", "\n").encode(errors="replace")
        parse(raw)
        with self._lock:
            if self.profile_text()[1] != version:
                raise Conflict("the file has changed meanwhile; close this, and edit it anew")
            try:
                replace_file(Path(self.profile_file), raw)
            except OSError as err:
                raise ProfileError(f"profile {self.profile_file}: cannot be written ({err.strerror})") from None
            self._seen.clear()
        self.events.add("profile")
        return _version(raw)

    # ---- the worker

    def _work_off(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._work(*job)

    def _work(self, run: _Run, seen: _Seen) -> None:
        try:
            self._leave_if_stopped(run)
            link = Link(
                self.address, deadline_s=self.deadline_s, on_notice=lambda text: self._notice(run, link, text),
                while_waiting=lambda: self._leave_if_stopped(run), keys=self.keys,
                restart_deadline_s=self.restart_deadline_s, ceiling=self.ceiling,
            )  # fmt: skip
            with link, self._under_the_ceiling():
                welcome = self.device.meet(link)
                self._cloud_is("here", f"the cloud at {self.address} is here")
                answer = self.device.ask(
                    link, welcome, seen.found, seen.profile, seen.prepared, sampling=self.sampling,
                    max_gen_len=self.max_gen_len, on_text=lambda text: self._text(run, text),
                    watch=_Watch(self, run, welcome, len(seen.prepared.outgoing.ids)),
                    between_steps=lambda: self._leave_if_stopped(run), on_finish=lambda: self._finishing(run),
                )  # fmt: skip
            self._over(run, "done", done=_done(answer, seen, welcome, self.mode))
        except Stopped:
            if run.finishing:
                self._fail(run, f"stopped before the cloud had said that it is finished; {MAY_BE_HANDED_ON}")
            else:
                self._over(run, "stopped")
        except SplitLlamaError as err:
            if isinstance(err, CloudUnreachable) and not isinstance(err, RequestUnanswered):
                self._cloud_is("away", str(err))
            self._fail(run, str(err))
        except Exception as err:  # it must be said, or the page would wait for ever; what err says may be personal
            self._fail(run, f"the program failed ({type(err).__name__}); what it had sent was as you saw it")

    def _leave_if_stopped(self, run: _Run) -> None:
        if run.stopped_at is None and self._is_ending:
            run.stopped_at = time.monotonic()
        if run.stopped_at is None or (run.finishing and time.monotonic() - run.stopped_at < FINISH_GRACE_S):
            return
        raise Stopped

    def _finishing(self, run: _Run) -> None:
        """From here on a run that is stopped may be finished all the same."""
        with self._lock:
            if run.stopped_at is not None:
                raise Stopped
            run.finishing = True

    @property
    def _is_ending(self) -> bool:
        """The program is; ``events.ended`` is set in a signal's handler."""
        return self.events.ended or self._closing.is_set()

    def _leave_if_ending(self) -> None:
        if self._is_ending:
            raise Stopped("the program ends")

    @contextmanager
    def _under_the_ceiling(self) -> Iterator[None]:
        """Where the process comes to have more memory than it may, the program ends."""
        try:
            yield
        except MemoryCeilingReached as err:
            self.failure = err
            self.events.end()
            raise

    def _fail(self, run: _Run, error: str) -> None:
        self._over(run, "failed", error=printable(error))

    def _over(self, run: _Run, phase: Phase, *, done: dict[str, Any] | None = None, error: str | None = None) -> None:
        with self._lock:
            self._set_over(run, phase, done=done, error=error)

    def _set_over(
        self, run: _Run, phase: Phase, *, done: dict[str, Any] | None = None, error: str | None = None
    ) -> None:
        """What has become of a run, once; under the lock, since another run may begin as soon as this one is over."""
        if not run.is_over:
            told = {"reply": done, "error": error}
            run.phase, run.done, run.error = phase, done, error
            self.events.add(phase, **{name: what for name, what in told.items() if what is not None})

    def _text(self, run: _Run, text: str) -> None:
        if text:
            with self._lock:  # for both: a page that begins in between would show this piece twice
                if not run.is_over:
                    run.text += text
                    self.events.add("text", text=text)

    def _notice(self, run: _Run, link: Link, text: str) -> None:
        if run.is_over:
            return
        if link.silent:
            self._cloud_is("away", text)
        else:
            self._cloud_is("here", f"the cloud at {self.address} is here")
            self.events.add("notice", text=printable(text))

    def watched(self, run: _Run, iteration: dict[str, Any], prefill: dict[str, int] | None) -> None:
        """A round trip has been made."""
        self._cloud_is("here", f"the cloud at {self.address} is here")
        with self._lock:
            if run.is_over:
                return
            run.iteration, run.prefill = iteration, prefill
            run.phase = "decoding" if prefill is None else "prefill"
            if prefill is not None:
                self.events.add("prefill", **prefill)
            self.events.add("iteration", **iteration)

    # ---- the lookout

    def _look_out(self) -> None:
        while not self._closing.wait(0 if self._cloud_state == "connecting" else LOOKOUT_S):
            running = self._run is not None and not self._run.is_over
            if running or (not self.events.followed and self._cloud_state != "connecting"):
                continue  # the run will tell; nobody wants to know
            try:
                with self._under_the_ceiling():
                    self._look()
            except Stopped:
                return
            except RequestUnanswered as err:  # so it is here
                self.events.add("notice", text=printable(str(err)))
            except (CheckpointError, ProtocolMismatch) as err:
                self._cloud_is("wrong", str(err))
            except SplitLlamaError as err:
                self._cloud_is("away", str(err))

    def _look(self) -> None:
        """Whether the cloud is there, and which sheets it has."""
        link = Link(
            self.address, deadline_s=LOOKOUT_S, on_notice=lambda _: None, while_waiting=self._leave_if_ending,
            keys=self.keys, ceiling=self.ceiling,
        )  # fmt: skip
        with link:
            self.device.meet(link)
        if self.source.is_the_cloud and (self._cloud_state != "here" or self._entries is None):
            before, self._entries = self._entries, self.source.entries()
            if self._entries != before:
                self.events.add("sheets")
        self._cloud_is("here", f"the cloud at {self.address} is here")

    def _cloud_is(self, state: CloudState, says: str) -> None:
        with self._lock:
            if (state, says) == (self._cloud_state, self._cloud_says):
                return
            self._cloud_state, self._cloud_says = state, says
            cloud = self._cloud()
        self.events.add("cloud", cloud=cloud)

    def _cloud(self) -> dict[str, str]:
        return {"address": self.address, "state": self._cloud_state, "says": printable(self._cloud_says)}

    # ---- the profile

    def _profile(self) -> tuple[Profile, str]:
        """The profile as its file is now, and that file's version."""
        if self.profile_file is None:
            return Profile(), ""
        raw = read_raw(self.profile_file)
        return parse(raw, f"profile {self.profile_file}"), _version(raw)

    def _needs_consent(self, found: Found, profile: Profile) -> bool:
        return self.profile_file is not None and not consent.given(found, profile, self.profile_file, self.mode)

    def _fates(self, sheet: Sheet | None, profile: Profile, prepared: Prepared) -> Iterable[dict[str, str]]:
        """What becomes of each field: first those that are asked for, in the sheet's order, then all others."""
        asked, language = set[str](), "en"
        for name in sheet.asks_for if sheet is not None else ():
            each = profile.find(name)
            if each is None:
                yield {"name": name, "label": label_of(name, language), "value": "", "fate": "missing", "sent_as": ""}
                continue
            asked.add(each.name)
            clean = prepared.sanitiser.field_text(name)
            sent_as = "" if clean is None else printable(clean.text)
            yield {**_profile_field(each), "fate": self._fate(each, sent_as), "sent_as": sent_as}
        for each in profile.fields.values():
            if each.name not in asked:
                yield {**_profile_field(each), "fate": "kept", "sent_as": ""}

    def _fate(self, each: ProfileField, sent_as: str) -> str:
        if self.mode == "off" or each.policy is FieldPolicy.OPEN:
            return "sent"
        return "generalised" if each.policy is FieldPolicy.QUASI and not sent_as.startswith("[") else "tag"


class _Watch:
    """Round trips as the page shows them."""

    def __init__(self, sitting: Sitting, run: _Run, welcome: Welcome, prompt_tokens: int) -> None:
        self.sitting, self.run, self.welcome, self.prompt_tokens = sitting, run, welcome, prompt_tokens
        self.stop_ids = frozenset(sitting.device.chat.stop_ids)
        self.first_at = 0.0

    def __call__(self, trip: RoundTrip) -> None:
        now, device = time.monotonic(), self.sitting.device
        embed_us, *layers_us = trip.device_us
        speed = None
        if trip.token is not None:
            if trip.index == 0 or not self.first_at:
                self.first_at = now
            elif now > self.first_at:
                speed = round(trip.index / (now - self.first_at), 1)
        iteration = {
            "index": trip.index,
            "token_id": trip.token,
            "token": "" if trip.token is None else device.tokenizer.decode([trip.token]),
            "stop": trip.token in self.stop_ids,
            "rows": trip.rows,
            "dim": self.welcome.dim,
            "dtype": self.welcome.dtype,
            "bytes": trip.sent_bytes,
            "device": {"embed_us": embed_us, "layers_us": layers_us},
            "network_us": trip.network_us,
            "cloud": None if trip.stages is None else msgspec.structs.asdict(trip.stages),
            "tokens_per_s": speed,
        }
        fed = trip.position + trip.rows
        is_prompt = fed <= self.prompt_tokens
        self.sitting.watched(
            self.run, iteration, {"done": fed, "of": self.prompt_tokens} if is_prompt and trip.token is None else None
        )


def _done(answer: Answer, seen: _Seen, welcome: Welcome, mode: Mode) -> dict[str, Any]:
    reply, party = answer.reply, seen.found.party
    return {
        "text": answer.text,
        "text_sent": printable(reply.text),
        "ending": ending(reply, welcome.max_seq_len),
        "offers": [_offer(offer) for offer in reply.offers],
        "copy": str(reply.copy),
        "copy_says": copy_in_words(reply.copy, party) or None,
        "timing": timing_line(reply.timing),
        "tags_left": answer.left,
        "views": list(_views(answer, party, mode)),
    }


def _offer(offer: Offer) -> dict[str, Any]:
    fields = msgspec.structs.asdict(offer)
    return {name: printable(value) if isinstance(value, str) else value for name, value in fields.items()}


def _views(answer: Answer, third_party: str, mode: Mode) -> Iterable[dict[str, Any]]:
    """Who saw what: per kind, what each party holds."""
    held = {
        party: view(
            party, answer.holdings, third_partys_own=bool(third_party), delivered=answer.reply.copy is Copy.QUEUED
        )
        for party in Party
    }
    for kind in answer.holdings:
        cells = []
        for party in Party:
            content, says = held[party].get(kind), SEES[kind][party].says
            if content is None:
                says = not_held(kind, party, third_party, raw=mode == "off")
            cells.append({"party": str(party), "holds": content is not None, "says": says,
                          "content": printable(content or "")})  # fmt: skip
        yield {"kind": str(kind), "cells": cells}


def _snapshot(run: _Run) -> dict[str, Any]:
    return {
        "id": run.id, "prompt_id": run.prompt_id, "seen": run.seen, "phase": run.phase, "prefill": run.prefill,
        "text": run.text, "iteration": run.iteration, "done": run.done, "error": run.error,
    }  # fmt: skip


def _entry(entry: SheetEntry) -> dict[str, Any]:
    return {
        "prompt_id": entry.prompt_id, "title": printable(entry.title), "party": party_of(entry.prompt_id),
        "asks_for": entry.asks_for,
    }  # fmt: skip


def _profile_field(each: ProfileField) -> dict[str, str]:
    value = printable(", ".join(map(text_of, each.values)))
    return {"name": each.name, "label": label_of(each.name, "en"), "policy": str(each.policy), "value": value}


def _version(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
