"""One person before the page: what they have chosen, the run that is under way, and all that can be told of it.

Two threads of its own. The *worker* loads the edge half and runs prompts, one at a time (OpenMP keeps a team of threads
per calling thread). The *lookout* asks the cloud every few seconds whether it is there, while nothing else does.

Knows: the device, the profile's file, the consents. Does not know: HTTP, what the page looks like.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from llama.edge import consent
from llama.edge.asking import Answer, Device, SheetSource, copy_in_words
from llama.edge.link import Link
from llama.edge.own_files import replace_file
from llama.edge.terminal import ending, not_held, timing_line
from llama.errors import CheckpointError, CloudUnreachable, ProfileError, ProtocolMismatch, SplitLlamaError
from llama.generation import RoundTrip
from llama.keys import LinkKeys
from llama.privacy.policy import SEES, FieldPolicy, Party, label_of, view
from llama.privacy.preparing import Prepared
from llama.privacy.profile import Profile, ProfileField, parse, read_raw, text_of
from llama.privacy.restoring import printable
from llama.privacy.sanitiser import Mode
from llama.prompt import Found
from llama.sampling import Sampling
from llama.sheets import Sheet, party_of
from llama.wire import Copy, Offer, SheetEntry, Welcome

LOOKOUT_S = 3.0
ABSENT = "absent"  # version of a profile's file that is not there
REMEMBERED_EVENTS = 4096  # a page that missed more looks at everything anew

Phase = Literal["asking", "prefill", "decoding", "done", "failed", "stopped"]
CloudState = Literal["connecting", "here", "away", "wrong"]


class Conflict(Exception):
    """What was asked for does not fit what is so now; the message says why."""


class _Stopped(Exception):
    """The person has had enough of a run."""


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
    """

    def __init__(
        self, device: Device, source: SheetSource, cloud: str, *, profile_file: str | None, mode: Mode,
        sampling: Sampling, max_gen_len: int | None, deadline_s: float, prompt_id: str = "",
        keys: LinkKeys | None = None,
    ) -> None:  # fmt: skip
        self.device, self.source, self.address, self.profile_file, self.mode = device, source, cloud, profile_file, mode
        self.sampling, self.max_gen_len, self.deadline_s, self.prompt_id = sampling, max_gen_len, deadline_s, prompt_id
        self.keys, self.events = keys, Events()
        self._lock = threading.Lock()  # of what follows
        self._seen: dict[str, _Seen] = {}
        self._run: _Run | None = None
        self._entries: tuple[SheetEntry, ...] | None = None if source.is_the_cloud else source.entries()
        self._cloud_state: CloudState = "connecting"
        self._cloud_says = f"looking for the cloud at {cloud}"
        self._stop, self._closing = threading.Event(), threading.Event()
        self._worker = ThreadPoolExecutor(1, "worker")
        self._lookout = threading.Thread(target=self._look_out, name="lookout", daemon=True)
        self._profile()  # an unusable profile is told at once,
        Link(cloud, keys=keys).close()  # and so is what is no address

    def start(self) -> None:
        """Begin to look out for the cloud."""
        self._lookout.start()

    def close(self) -> None:
        """Stop a run that is under way, and wait for it."""
        self._closing.set()
        self._stop.set()
        self._worker.shutdown(wait=True, cancel_futures=True)

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
        profile, version = self._profile()
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
            self._stop.clear()
            self.events.add("begun", run=_snapshot(run), prompt_tokens=len(seen.prepared.outgoing.ids))
        self._worker.submit(self._work, run, seen)
        return run.id

    def stop(self, run_id: str | None = None) -> None:
        """End the run that is under way, if one is (and is the one that is meant): unless it is being finished
        already, it never is, so nobody gets a copy.
        """
        with self._lock:
            if self._run is not None and run_id in (None, self._run.id):
                self._stop.set()

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
        return raw.decode("utf-8-sig", errors="replace"), _version(raw)

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

    def _work(self, run: _Run, seen: _Seen) -> None:
        try:
            link = Link(self.address, deadline_s=self.deadline_s, on_notice=lambda text: self._notice(link, text),
                        while_waiting=self._stop_if_asked, keys=self.keys)  # fmt: skip
            with link:
                welcome = self.device.meet(link)
                self._cloud_is("here", f"the cloud at {self.address} is here")
                answer = self.device.ask(
                    link, welcome, seen.found, seen.profile, seen.prepared, sampling=self.sampling,
                    max_gen_len=self.max_gen_len, on_text=lambda text: self._text(run, text),
                    watch=_Watch(self, run, welcome, len(seen.prepared.outgoing.ids)),
                    between_steps=self._stop_if_asked,
                )  # fmt: skip
            self._over(run, "done", done=_done(answer, seen, welcome, self.mode))
        except _Stopped:
            self._over(run, "stopped")
        except SplitLlamaError as err:
            if isinstance(err, CloudUnreachable):
                self._cloud_is("away", str(err))
            self._fail(run, str(err))
        except Exception as err:  # it must be said, or the page would wait for ever; what err says may be personal
            self._fail(run, f"the program failed ({type(err).__name__}); what it had sent was as you saw it")

    def _stop_if_asked(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _fail(self, run: _Run, error: str) -> None:
        self._over(run, "failed", error=printable(error))

    def _over(self, run: _Run, phase: Phase, *, done: dict[str, Any] | None = None, error: str | None = None) -> None:
        told = {"reply": done, "error": error}
        with self._lock:  # for both: another run may begin as soon as this one is over
            run.phase, run.done, run.error = phase, done, error
            self.events.add(phase, **{name: what for name, what in told.items() if what is not None})

    def _text(self, run: _Run, text: str) -> None:
        if text:
            with self._lock:  # for both: a page that begins in between would show this piece twice
                run.text += text
                self.events.add("text", text=text)

    def _notice(self, link: Link, text: str) -> None:
        if link.silent:
            self._cloud_is("away", text)
        else:
            self.events.add("notice", text=printable(text))

    def watched(self, run: _Run, iteration: dict[str, Any], prefill: dict[str, int] | None) -> None:
        """A round trip has been made."""
        self._cloud_is("here", f"the cloud at {self.address} is here")
        with self._lock:
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
                with Link(self.address, deadline_s=LOOKOUT_S, on_notice=lambda _: None, keys=self.keys) as link:
                    self.device.meet(link)
                if self.source.is_the_cloud and (self._cloud_state != "here" or self._entries is None):
                    before, self._entries = self._entries, self.source.entries()
                    if self._entries != before:
                        self.events.add("sheets")
                self._cloud_is("here", f"the cloud at {self.address} is here")
            except (CheckpointError, ProtocolMismatch) as err:
                self._cloud_is("wrong", str(err))
            except SplitLlamaError as err:
                self._cloud_is("away", str(err))

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
