"""Values for the page's JSON: previews, round trips, results, sheets and fields.

Every text goes through ``printable``, because the page shows plain text without control characters.

Knows: the pipeline's types. Does not know: events, HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec

from llama.checkpoint.halves import Half
from llama.edge import wording
from llama.edge.consent import ConsentRequest, ConsentState
from llama.edge.device import Device
from llama.edge.generation import RoundTrip
from llama.edge.pipeline import Preview, RunResult, SentForm
from llama.privacy.policy import label_of
from llama.privacy.preparing import Prepared
from llama.privacy.profile import Profile, ProfileField, text_of
from llama.privacy.review import pieces_of
from llama.sheets import party_of
from llama.text.printable import printable
from llama.wire import Offer, SheetEntry, Welcome

LANGUAGE = "en"  # language of the fields' labels
_OUTCOMES = {SentForm.TAG: "tag", SentForm.COARSER: "generalised", SentForm.AS_WRITTEN: "sent"}


def model(half: Half) -> dict[str, int]:
    """Return the shape of the model and the layer at which it is split."""
    args = half.args
    return {
        "n_layers": args.n_layers,
        "split_layer": half.split_layer,
        "dim": args.dim,
        "vocab_size": args.vocab_size,
    }


def profile(file: str, whole: Profile) -> dict[str, Any]:
    """Return a profile. ``file`` is the name of its file."""
    return {"file": file, "fields": list(map(profile_field, whole.fields.values()))}


def preview(prompt_id: str, seen: Preview, request: ConsentRequest) -> dict[str, Any]:
    """Return everything that would leave, and the consent it needs.

    Raises:
        ProfileError: the remembered agreements cannot be read.
    """
    sheet, sourced, prepared = seen.sheet, seen.sourced, seen.prepared
    return {
        "prompt_id": prompt_id,
        "seen": seen.digest,
        "title": printable(sheet.title) if sheet is not None else wording.OWN_WORDS,
        "party": sourced.party,
        "whose": printable(wording.origin(sourced)) if sheet is not None else "you",
        "task": sheet.task if sheet is not None else "answer",
        "system_prompt": _system_prompt(seen),
        "sheet": {"system": printable(sheet.system), "questions": [printable(each) for each in sheet.questions]}
        if sheet is not None
        else None,
        "fields": list(_fields(seen)),
        "prompt": list(_messages(prepared)),
        "tags": {tag: printable(value) for tag, value in prepared.sanitiser.tags.items()},
        "cautions": [printable(each) for each in prepared.cautions],
        "stays": [
            {"text": printable(each.text), "reason": each.reason, "count": each.count} for each in prepared.review.stays
        ],
        "hidden": [printable(word) for word in seen.hidden],
        "tokens": len(prepared.outgoing.ids),
        "consent": _consent(seen, request),
    }


def _messages(prepared: Prepared) -> Iterator[dict[str, Any]]:
    """Yield each message of the prompt, with its pieces: text, and what it is marked as."""
    for i, message in enumerate(prepared.dialog):
        marks = prepared.review.by_message.get(i, ())
        pieces = [[printable(piece), kinds] for piece, kinds in pieces_of(message.content, marks)]
        yield {"role": message.role, "content": printable(message.content), "pieces": pieces}


def _system_prompt(seen: Preview) -> list[dict[str, str]]:
    sourced, own = seen.sourced, "" if seen.sheet is None else seen.sheet.system
    # Same order as llama.privacy.merging: a vendor's text follows the provider's; a sheet's own text replaces it.
    parts = [("the provider", sourced.provider_system if sourced.party or not own else own)]
    if sourced.party:
        parts.append((wording.origin(sourced), own))
    return [{"whose": whose, "text": printable(text.strip())} for whose, text in parts if text.strip()]


def _consent(seen: Preview, request: ConsentRequest) -> dict[str, Any]:
    sheet, mode = seen.sheet, request.mode
    asked = {} if sheet is None else wording.levels(sheet, request.profile, mode)
    return {
        "needed": request.state() is ConsentState.NEEDED,
        "question": printable(wording.heading(seen.sourced)) if sheet is not None else "",
        "fields": [{"name": name, "form": level} for name, level in asked.items()],
        "notes": [printable(each) for each in wording.notes(seen.sourced, mode, request.profile_file or "")],
    }


def _fields(seen: Preview) -> Iterator[dict[str, str]]:
    """Yield each field and its outcome: first the fields that the sheet asks for, in its order, then all others."""
    asked = set[str]()
    for name in seen.sheet.asks_for if seen.sheet is not None else ():
        each = seen.profile.find(name)
        if each is None:
            yield {"name": name, "label": label_of(name, LANGUAGE), "value": "", "outcome": "missing", "sent_as": ""}
            continue
        asked.add(each.name)
        clean = seen.prepared.sanitiser.field_text(name)
        sent_as = "" if clean is None else printable(clean.text)
        yield {**profile_field(each), "outcome": _OUTCOMES[seen.forms[name]], "sent_as": sent_as}
    for each in seen.profile.fields.values():
        if each.name not in asked:
            yield {**profile_field(each), "outcome": "kept", "sent_as": ""}


class Iterations:
    """The round trips of one run as JSON values, with the speed so far."""

    def __init__(self, device: Device, welcome: Welcome, prompt_tokens: int) -> None:
        self.device, self.welcome, self.prompt_tokens = device, welcome, prompt_tokens
        self.stop_ids = frozenset(device.chat.stop_ids)
        self._first_at = 0.0

    def iteration(self, trip: RoundTrip) -> dict[str, Any]:
        """Return the latest round trip."""
        embed_us, *layers_us = trip.device_us
        return {
            "index": trip.index,
            "token_id": trip.token,
            "token": "" if trip.token is None else self.device.tokenizer.decode([trip.token]),
            "stop": trip.token in self.stop_ids,
            "rows": trip.positions,
            "dim": self.welcome.dim,
            "dtype": self.welcome.dtype,
            "bytes": trip.sent_bytes,
            "device": {"embed_us": embed_us, "layers_us": layers_us},
            "network_us": trip.network_us,
            "cloud": None if trip.stages is None else msgspec.structs.asdict(trip.stages),
            "tokens_per_s": self._speed(trip),
        }

    def prefill(self, trip: RoundTrip) -> dict[str, int] | None:
        """Return how much of the prompt is computed, or None if the round trip was not for the prompt alone."""
        fed = trip.position + trip.positions
        is_prompt = fed <= self.prompt_tokens and trip.token is None
        return {"done": fed, "of": self.prompt_tokens} if is_prompt else None

    def _speed(self, trip: RoundTrip) -> float | None:
        if trip.token is None:
            return None
        now = time.monotonic()
        if trip.index == 0 or not self._first_at:
            self._first_at = now
        elif now > self._first_at:
            return round(trip.index / (now - self._first_at), 1)
        return None


def done(result: RunResult) -> dict[str, Any]:
    """Return the result of a run."""
    reply, vendor = result.reply, result.preview.sourced.party
    return {
        "text": result.text,
        "text_sent": printable(reply.text),
        "ending": wording.ending(reply, result.welcome.max_seq_len),
        "offers": [_offer(offer) for offer in reply.offers],
        "copy": str(reply.copy),
        "copy_says": wording.copy_status(reply.copy, vendor) or None,
        "timing": wording.timing_line(reply.timing),
        "tags_left": result.left,
        "views": list(_views(result)),
    }


def _offer(offer: Offer) -> dict[str, Any]:
    fields = msgspec.structs.asdict(offer)
    return {name: printable(value) if isinstance(value, str) else value for name, value in fields.items()}


def _views(result: RunResult) -> Iterator[dict[str, Any]]:
    for kind, cells in result.views().items():
        written = [
            {
                "party": str(cell.party),
                "holds": cell.content is not None,
                "says": cell.says,
                "content": printable(cell.content or ""),
            }
            for cell in cells
        ]
        yield {"kind": str(kind), "cells": written}


def sheet_entry(entry: SheetEntry) -> dict[str, Any]:
    """Return one line of the list of sheets."""
    return {
        "prompt_id": entry.prompt_id,
        "title": printable(entry.title),
        "party": party_of(entry.prompt_id),
        "asks_for": entry.asks_for,
    }


def profile_field(each: ProfileField) -> dict[str, str]:
    """Return a field of the profile with its value."""
    value = printable(", ".join(map(text_of, each.values)))
    return {"name": each.name, "label": label_of(each.name, LANGUAGE), "policy": str(each.policy), "value": value}
