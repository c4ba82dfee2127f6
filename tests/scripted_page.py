"""The page's real server over a controller that says whatever a test wants: hostile texts, eighty layers, a lost cloud.

Knows: the interface that the page speaks. Computes nothing.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import uvicorn

from llama.edge.web.app import application
from llama.edge.web.controller import WebController
from llama.edge.web.errors import Conflict
from llama.edge.web.event_stream import EventStream

TOKEN = "a-token-of-the-tests"
HOSTILE = '<script>alert(1)</script> <img src=x onerror="alert(2)"> [bold]no[/bold] ' + "W" * 120
PROMPT = [
    {"role": "system", "content": "You suggest gifts. Answer with a numbered list of three short gift ideas."},
    {"role": "user", "content": "For: my friend [NAME_8]. Interests: jazz. Budget: Rp 300.000."},
    {"role": "assistant", "content": "Gifts for [NAME_8]:\n1. A jazz record"},
    {"role": "user", "content": "For: my husband [NAME_1]. Notes: Nothing sweet because of my [HEALTH_1]."},
]
FIELDS = [
    ("recipient", "Recipient", "open", "my husband Rudi Hartono", "sent", "my husband [NAME_1]"),
    ("birth_date", "Birth date", "quasi", "12 April 1991", "generalised", "1990s"),
    ("name", "Name", "secret", "Sari Wulandari", "tag", "[NAME_2]"),
    ("headcount", "Headcount", "open", "", "missing", ""),
    ("notes", "Notes", "open", f"Nothing sweet because of my diabetes. {HOSTILE}", "sent", f"[HEALTH_1] {HOSTILE}"),
    ("phone", "Phone", "secret", "0812-3456-7890", "kept", ""),
    ("nik", "NIK", "secret", "3273015204910003", "kept", ""),
]


class ScriptedHistory:
    """One run, once a history is kept; the page may have it forgotten."""

    def __init__(self, title: str) -> None:
        self.title, self.is_kept, self.forgotten = title, False, list[str]()

    def listed(self) -> dict[str, Any]:
        path = "/home/sari/profile.toml.history.jsonl"
        lines = [["cloud", "tcp://127.0.0.1:5555"], ["tags sent", "[NAME_1]"], ["reply", f"For [NAME_1]: {self.title}"]]
        run = {
            "run_id": "ab" * 16, "began_at": "2026-11-28T14:26:03Z", "title": self.title, "lines": lines,
            "tags": ["[NAME_1]"], "forgettable": not self.forgotten,
        }  # fmt: skip
        runs = [run] if self.is_kept else []
        return {"file": path if self.is_kept else None, "offered": path, "runs": runs, "more": 3 * self.is_kept}

    def keep(self) -> None:
        self.is_kept = True

    def forget(self, run_id: str) -> str:
        self.forgotten.append(run_id)
        return "the cloud has deleted its record of this run; no third party had collected a copy"


class Scripted(WebController):
    """Holds what the page asks for; ``say`` makes something happen."""

    def __init__(self, n_layers: int = 30, *, hostile: bool = False, consent_needed: bool = True) -> None:
        self.events = EventStream()
        self.n_layers, self.consent_needed = n_layers, consent_needed
        self.title = HOSTILE if hostile else "Three gifts for a birthday"
        self.cloud = {"address": "tcp://127.0.0.1:5555", "state": "here", "says": "the cloud is here"}
        self.run: dict[str, Any] | None = None
        self.asked = list[tuple[str, bool]]()
        self.mode_off = False
        self.seen = "x"
        self.history: Any = ScriptedHistory(self.title)

    def say(self, kind: str, **fields: Any) -> None:
        """An event, and what it does to the run's snapshot."""
        if kind == "cloud":
            self.cloud = fields["cloud"]
        elif self.run is not None and kind == "iteration":
            self.run |= {"phase": "decoding", "iteration": fields}
        elif self.run is not None and kind == "prefill":
            self.run |= {"phase": "prefill", "prefill": fields}
        elif self.run is not None and kind == "text":
            self.run["text"] += fields["text"]
        elif self.run is not None and kind in ("done", "failed", "stopped"):
            self.run |= {"phase": kind, "done": fields.get("reply"), "error": fields.get("error")}
        self.events.add(kind, **fields)

    def cloud_is(self, state: str, says: str = "") -> None:
        self.say("cloud", cloud={"address": "tcp://127.0.0.1:5555", "state": state, "says": says})

    def iteration(self, index: int, token: str, *, rows: int = 1, stop: bool = False) -> None:
        """A round trip, with the times of each layer."""
        far = [900 + 7 * i for i in range(self.n_layers - 1)]
        cloud = {"queue_us": 5, "layers_us": far, "head_us": 5300, "sample_us": 20}
        self.say(
            "iteration", index=index, token_id=123 + index, token=token, stop=stop, rows=rows, dim=576,
            dtype="float32", bytes=2304 * rows, device={"embed_us": 12, "layers_us": [940]}, network_us=600,
            cloud=cloud, tokens_per_s=34.5 if index else None,
        )  # fmt: skip

    def write(self, *pieces: str) -> None:
        """A reply, from the first row to its last word."""
        self.say("prefill", done=128, of=256)
        for i, piece in enumerate(pieces):
            self.iteration(i, piece, rows=1 if i else 128)
            self.say("text", text=piece)

    def finish(self, text: str, *, product: str = "Stoneware tea set for two", url: str = "https://shop/tea") -> None:
        """Its end, with offers and the parties' views."""
        offers = [
            {"product": "p1", "vendor": "kopi", "title": product, "price": 1385000, "url": url, "item": "A tea set",
             "matched": ["tea", "set"]},
        ]  # fmt: skip
        no, prompt, sent = (False, "no", ""), PROMPT[-1]["content"], text.replace("Rudi Hartono", "[NAME_1]")
        rows = {
            "profile, raw": ((True, "yes", "recipient: my husband Rudi Hartono"), no, no),
            "sanitised prompt": (
                (True, "yes", prompt), (True, "not sent as text; assume recoverable", prompt),
                (False, "(none took part)", ""),
            ),
            "reply with tags": ((True, "yes", sent), (True, "yes", sent), (False, "(none took part)", "")),
            "reply, restored": ((True, "yes", text), no, no),
        }  # fmt: skip
        parties = ("customer", "provider", "third party")
        views = [
            {"kind": kind, "cells": [
                {"party": party, "holds": holds, "says": says, "content": content}
                for party, (holds, says, content) in zip(parties, cells, strict=True)
            ]}
            for kind, cells in rows.items()
        ]  # fmt: skip
        reply = {
            "text": text, "text_sent": sent, "ending": None, "offers": offers, "copy": "none", "copy_says": None,
            "timing": "256 prompt tokens, first token after 0.26 s", "tags_left": 0, "views": views,
        }  # fmt: skip
        self.say("done", reply=reply)

    # ---- what the page asks for

    def state(self) -> dict[str, Any]:
        sheets = [{"prompt_id": "birthday", "title": self.title, "party": "", "asks_for": [f[0] for f in FIELDS]},
                  {"prompt_id": "insurer/cover", "title": "Which travel cover fits a trip", "party": "insurer",
                   "asks_for": ["trip"]}]  # fmt: skip
        fields = [dict(zip(("name", "label", "policy", "value"), each[:4], strict=True)) for each in FIELDS if each[3]]
        return {
            "cloud": self.cloud,
            "model": {"n_layers": self.n_layers, "split_layer": 1, "dim": 576, "vocab_size": 49152},
            "sheets": sheets, "prompt_id": "", "profile": {"file": "profile.toml", "fields": fields},
            "sanitise": "off" if self.mode_off else "schema", "run": self.run, "last_event": self.events.last,
        }  # fmt: skip

    def look_at(self, prompt_id: str, hidden: Sequence[str] = ()) -> dict[str, Any]:
        names = ("name", "label", "policy", "value", "outcome", "sent_as")
        party = prompt_id.partition("/")[0] if "/" in prompt_id else ""
        notes = ["The provider can read everything you send, and the reply, which may quote it."]
        if party:
            notes.append(f"The third party {party} gets the reply as the model writes it (tags stay tags).")
        return {
            "seen": self.seen, "prompt_id": prompt_id, "title": self.title, "party": party,
            "whose": f"the third party {party}" if party else "the provider", "task": "recommend",
            "system_prompt": [{"whose": "the provider", "text": f"{PROMPT[0]['content']} {self.title}"}],
            "sheet": {"system": PROMPT[0]["content"], "questions": ["For: {recipient}."]},
            "fields": [dict(zip(names, each, strict=True)) for each in FIELDS],
            "prompt": [{**each, "pieces": [[each["content"], []]]} for each in PROMPT],
            "stays": [], "hidden": [*hidden],
            "tags": {"[NAME_1]": "Rudi Hartono", "[HEALTH_1]": "diabetes"}, "tokens": 256,
            "consent": {
                "needed": self.consent_needed, "question": f"{self.title} (from the provider, to recommend) asks for:",
                "fields": [{"name": each[0], "form": "as you wrote it"} for each in FIELDS if each[4] != "kept"],
                "notes": notes,
            },
        }  # fmt: skip

    def begin(self, prompt_id: str, agree: bool, seen_as: str | None = None) -> str:
        self.asked.append((prompt_id, agree))
        if seen_as != self.seen:
            raise Conflict("the sheet has changed since you saw this prompt; look at it again")
        if self.run is not None and self.run["phase"] in ("asking", "prefill", "decoding"):
            raise Conflict("a run is under way; stop it first")
        if self.consent_needed and not agree:
            raise PermissionError("the sheet asks for fields of your profile")
        self.consent_needed = False
        self.run = {"id": f"run{len(self.asked)}", "prompt_id": prompt_id, "seen": self.seen,
                    "phase": "asking", "prefill": None, "text": "", "iteration": None, "done": None,
                    "error": None}  # fmt: skip
        self.events.add("begun", run=self.run, prompt_tokens=256)
        return str(self.run["id"])

    def stop(self, run_id: str | None = None) -> None:
        self.say("stopped")


@contextlib.contextmanager
def serving(controller: WebController) -> Iterator[str]:
    """The address of the page, as the program would print it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = uvicorn.Config(
            application(controller, port, TOKEN), log_config=None, access_log=False, lifespan="off",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/#{TOKEN}"
        finally:
            controller.events.end()
            server.should_exit = True
            thread.join()
