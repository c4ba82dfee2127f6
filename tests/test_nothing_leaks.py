"""The central claim: no value that a person declares secret leaves the device, in whatever way it is written.

Three hundred invented people (``tests.canaries``) go through the real thing: boundary, gate, link and cloud, with all
shipped sheets in turn. Everything that others could then hold is searched, by code that knows nothing of the product's:
the bytes on the wire, the text that the rows are, the run record, the logs, the remembered agreements.

The model's weights are public, so the rows count as text: here they are proved to be the rows of exactly the ids whose
text is searched, and in one test the text is computed back from rows alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import edge_main
from llama import wire
from llama.chat import ChatFormat, Encoded, Llama3Format, Message
from llama.checkpoint.halves import read_half, tokenizer_of
from llama.client.link import Link
from llama.cloud.model_runner import ModelRunner
from llama.cloud.provider import ProviderServices
from llama.cloud.run_store import RunStore
from llama.cloud.server import Server
from llama.dtypes import DTYPES
from llama.edge.consent import ConsentRequest, consents_of
from llama.edge.generation import CHUNK, GeneratedReply, GenerationSettings, Timing, generate_reply
from llama.edge.terminal_run import require_consent
from llama.errors import PrivacyRefused
from llama.privacy import gate
from llama.privacy.merging import Passage
from llama.privacy.preparing import Prepared, prepare
from llama.privacy.profile import profile_from
from llama.privacy.sanitiser import CleanText, Mode, Sanitiser
from llama.prompt import OwnWords, SourcedPrompt, read_from_directory
from llama.sheets import Sheet
from llama.tokenizer import Tokenizer
from llama.wire import Welcome
from model_edge import EdgeTransformer
from tests.canaries import (
    SHEET_IDS,
    SHEETS,
    Canary,
    Person,
    as_toml,
    leaks,
    person,
    raw_leaks,
)
from tests.processes import ROOT, cloud
from tests.proxy import Proxy, Wire
from tests.support import ARGS, FINGERPRINT, GREEDY, Halves, without_counts
from tests.volumes import SOAK

Splits = Callable[..., Path]

PEOPLE = 150 if SOAK else 15  # of each language
CONTEXT = 4096
REPLY = 3  # tokens
GREETING = 64  # bytes of ZMTP before the first frame
RANDOM = ("run_id", "session", "fingerprint")  # fields of 16 or 32 bytes that are drawn or computed, not written
# Numbers that a machine makes up as it goes could be a postcode; each is taken out by its name, so that none is flaky.
CLOCK = "compute_us"


@pytest.fixture(scope="module")
def chat(tokenizer: Tokenizer) -> ChatFormat:
    return Llama3Format(tokenizer)


@pytest.fixture(scope="module")
def people() -> list[Person]:
    """In turn one who writes Indonesian and one who writes English."""
    return [person(language, seed) for seed in range(PEOPLE) for language in ("id", "en")]


@pytest.fixture(scope="module")
def sheets() -> list[SourcedPrompt]:
    """All that are shipped, and one that asks for everything."""
    asked = (
        "name",
        "phone",
        "email",
        "birth_date",
        "address",
        "card",
        "bank_account",
        "diagnosis",
        "income",
        "employer",
        "nik",
        "ssn",
        "notes",
        "recipient",
        "interests",
        "occasion",
        "trip",
    )
    greedy = Sheet(("What do you know of {name} and {birth_date}?",), asks_for=asked)
    shipped = [read_from_directory(str(SHEETS), name) for name in SHEET_IDS]
    return [*shipped, SourcedPrompt(greedy, "vendor:greedy", "greedy", "greedy")]


# ---- what passes on the wire


def frames_of(stream: bytes) -> Iterator[tuple[bool, bytes]]:
    """ZMTP 3's frames, (is a command, body); anything that is not accounted for fails."""
    assert stream[:1] == b"\xff" and len(stream) >= GREETING
    at = GREETING
    while at < len(stream):
        flags = stream[at]
        assert flags < 8
        size = int.from_bytes(stream[at + 1 : at + 9]) if flags & 2 else stream[at + 1]
        at += 9 if flags & 2 else 2
        assert at + size <= len(stream)
        yield bool(flags & 4), stream[at : at + size]
        at += size


@dataclass
class Sent:
    """What one run has put on the wire.

    Attributes:
        text: greetings, commands and headers of both directions, less the fields of :data:`RANDOM` and the clock's.
        rows: all rows, by position.
        raw: every byte of both directions.
    """

    text: str
    rows: torch.Tensor
    raw: bytes


def sent_over(wires: Sequence[Wire]) -> Sent:
    """Everything of a run's connections, every byte accounted for."""
    said, rows = list[str](), dict[int, torch.Tensor]()
    for one in wires:
        for stream in (bytes(one.out), bytes(one.back)):
            said.append(stream[:GREETING].decode("latin-1"))
            step: dict[str, Any] | None = None
            for is_command, body in frames_of(stream):
                if is_command or not body:
                    said.append(body.decode("latin-1"))
                elif step is not None:
                    block = torch.frombuffer(bytearray(body), dtype=DTYPES[step["dtype"]])
                    rows |= {step["position"] + i: row for i, row in enumerate(block.view(step["rows"], step["dim"]))}
                    step = None
                else:
                    header = msgspec.msgpack.decode(body)
                    step = header if header["type"] == "step" else None
                    for name in RANDOM:
                        assert len(header.pop(name, b"")) in (0, 16, 32)
                    for counts in (header, header.get("usage", {})):
                        assert isinstance(counts.pop(CLOCK, 0), int)
                    said.append(repr(header))
            assert step is None
    positions = range(len(rows))
    return Sent("\n".join(said), torch.stack([rows[i] for i in positions]), b"".join(o.out + o.back for o in wires))


def rows_of(edge: EdgeTransformer, ids: Sequence[int], prompt: int) -> torch.Tensor:
    """What a device computes for ids of which ``prompt`` are the prompt, in the same chunks."""
    cache = edge.new_cache(1, len(ids))
    starts = [*range(0, prompt, CHUNK), *range(prompt, len(ids))]
    parts = [edge(torch.tensor([list(ids[a:b])]), [a], cache)[0] for a, b in itertools.pairwise([*starts, len(ids)])]
    return torch.cat(parts)


# ---- one run through the real thing


@dataclass
class Run:
    """A finished run, and what it left behind."""

    prepared: Prepared
    reply: GeneratedReply
    sent: Sent


class Place:
    """A served small model behind a proxy, with a run record."""

    def __init__(self, halves: Halves, tokenizer: Tokenizer, chat: ChatFormat, record_file: Path) -> None:
        self.halves, self.tokenizer, self.chat, self.record_file = halves, tokenizer, chat, record_file
        self.welcome = Welcome(wire.VERSION, FINGERPRINT, "float32", ARGS.dim, 1, CONTEXT, CHUNK)
        self.notices = list[str]()

    @contextmanager
    def open(self) -> Iterator[Place]:
        with closing(RunStore(self.record_file)) as record:
            server = Server(
                self.tokenizer, self.welcome, slots=2, services=ProviderServices.of(self.tokenizer, store=record)
            )
            endpoint = server.bind("tcp://127.0.0.1:*")
            stop = threading.Event()
            runner = ModelRunner(self.halves.cloud, self.halves.cloud.new_cache(2, CONTEXT), ARGS.dim)
            thread = threading.Thread(target=server.serve, args=(runner, stop.is_set))
            thread.start()
            try:
                with Proxy(endpoint) as self.proxy:
                    yield self
            finally:
                stop.set()
                thread.join()

    def run(self, found: SourcedPrompt, profile: dict[str, Any], mode: Mode = "schema") -> Run:
        """As edge_main does it."""
        prepared = prepare(found, profile_from(profile), mode, self.chat, self.tokenizer, CONTEXT)
        before = len(self.proxy.wires)
        with Link(self.proxy.address, on_notice=self.notices.append) as link:
            reply = generate_reply(
                prepared.outgoing.ids,
                edge=self.halves.edge,
                link=link,
                welcome=link.hello(),
                tokenizer=self.tokenizer,
                settings=GenerationSettings(GREEDY, stop_ids=self.chat.stop_ids, max_gen_len=REPLY),
                prompt_id=found.prompt_id,
            )
        return Run(prepared, reply, sent_over(self.proxy.wires[before:]))

    def stored(self) -> bytes:
        """The record's file and SQLite's companions to it, as they lie on the disk."""
        return b"".join(path.read_bytes() for path in sorted(self.record_file.parent.glob(self.record_file.name + "*")))

    def recorded_texts(self) -> list[str]:
        """Each row without its random id and the clock's count, oldest first."""
        return recorded(self.record_file)


def recorded(record_file: Path) -> list[str]:
    """All rows of a run record, in SQLite's own words."""
    with closing(sqlite3.connect(record_file)) as db:
        rows = db.execute("SELECT * FROM runs ORDER BY rowid")
        names = [column[0] for column in rows.description]
        return [repr([v for name, v in zip(names, row, strict=True) if name not in (*RANDOM, CLOCK)]) for row in rows]


@pytest.fixture
def place(halves: Halves, tokenizer: Tokenizer, chat: ChatFormat, tmp_path: Path) -> Iterator[Place]:
    with Place(halves, tokenizer, chat, tmp_path / "runs.sqlite").open() as place:
        yield place


# ---- the search itself


def test_the_search_finds_every_canary_in_every_way_it_is_written(people: list[Person]) -> None:
    """A search that misses proves nothing by finding nothing."""
    written = [(canary, form) for each in people for canary in each.canaries for form in canary.written]
    assert len(people) == 2 * PEOPLE and len(written) > 160 * len(people)
    missed = [(canary.field, form) for canary, form in written if not leaks(f"so {form}, yes", [canary])]
    assert not missed
    assert len({canary.field for canary, _ in written}) >= 12
    one = people[0].canaries[0]
    assert not leaks("Nothing of anybody's, 12 times.", [c for each in people for c in each.canaries])
    assert raw_leaks(b"\0\xff" + one.forms[-1].upper().encode() + b"\0", [one])


# ---- A: nothing leaks


@pytest.mark.long
def test_no_written_form_of_any_secret_is_in_any_prompt(
    people: list[Person], sheets: list[SourcedPrompt], chat: ChatFormat, tokenizer: Tokenizer
) -> None:
    """With the sheet that asks for everything, and a shipped one in turn; and nobody is refused, since a boundary that
    refuses an honest prompt is switched off.
    """
    found, refused = list[str](), list[str]()
    for number, each in enumerate(people):
        profile = profile_from(dict(each.profile))
        for sheet in (sheets[-1], sheets[number // 2 % len(SHEET_IDS)]):
            try:
                prepared = prepare(sheet, profile, "schema", chat, tokenizer, CONTEXT)
            except PrivacyRefused as err:
                refused.append(f"person {number}, {sheet.prompt_id}: {err}")
                continue
            text = prepared.outgoing.text
            assert tokenizer.decode(list(prepared.outgoing.ids)) == text
            found += [f"person {number}, {sheet.prompt_id}: {leak}" for leak in leaks(text, each.canaries)]
    assert not found
    assert not refused


@pytest.mark.long
def test_nothing_that_hundreds_of_people_declare_secret_is_on_the_wire_or_kept_or_logged(
    people: list[Person], sheets: list[SourcedPrompt], place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each with one sheet in turn: bytes, rows, replies, record, agreements, questions and notices."""
    found = list[str]()
    total, tokens, started, refused = 0, 0, time.monotonic(), 0
    for number, each in enumerate(people):
        sheet = sheets[number % len(sheets)]

        def note(what: str, leaked: Sequence[str], who: str = f"person {number}, {sheet.prompt_id}") -> None:
            found.extend(f"{who}: {what}: {leak}" for leak in leaked)

        profile_file, questions = tmp_path / f"{number}.toml", list[str]()

        def agree(question: str, asked: list[str] = questions) -> bool:
            asked.append(question)
            return True

        profile = profile_from(dict(each.profile))
        request = ConsentRequest(sheet, profile, str(profile_file), "schema")
        require_consent(request, yes=False, ask=agree, notice=questions.append)
        assert len(questions) == 1
        note("agreement", leaks(consents_of(str(profile_file)).read_text(), each.canaries))
        note("question", leaks(questions[0], each.canaries))
        try:
            run = place.run(sheet, dict(each.profile))
        except PrivacyRefused as err:
            refused += 1  # the test before this one says which
            note("refusal", leaks(str(err), each.canaries))
            continue
        ids = run.reply.prompt_tokens + run.reply.tokens[: len(run.sent.rows) - len(run.reply.prompt_tokens)]
        assert torch.equal(run.sent.rows, rows_of(place.halves.edge, ids, len(run.reply.prompt_tokens)))
        note("rows", leaks(place.tokenizer.decode(ids), each.canaries))
        note("headers", leaks(run.sent.text, each.canaries))
        note("bytes", raw_leaks(run.sent.raw, each.canaries))
        note("reply", leaks(run.reply.text, each.canaries))
        note("repr", leaks(repr((run.prepared, replace(run.reply, timing=Timing()), profile)), each.canaries))
        note("record", leaks(place.recorded_texts()[-1], each.canaries))
        total, tokens = total + len(run.sent.raw), tokens + len(ids)
    logs, stored = without_counts("".join(capfd.readouterr())) + "\n".join(place.notices), place.stored()
    everybody = [canary for each in people for canary in each.canaries]
    found += [f"log: {leak}" for leak in leaks(logs, everybody)]
    found += [f"record file: {leak}" for leak in raw_leaks(stored, everybody)]
    assert not found
    assert len(place.recorded_texts()) == len(people) - refused and refused < len(people) / 10
    with capfd.disabled():
        print(
            f"\n{len(everybody)} values, {sum(len(c.forms) for c in everybody)} forms; {total} bytes on the wire, "
            f"{len(stored)} kept, rows of {tokens} tokens, {time.monotonic() - started:.1f} s"
        )


@dataclass
class ReallySent:
    """What a real device and a real cloud left of one run."""

    answer: dict[str, Any]
    stderr: str
    files: str
    sent: Sent


class Real:
    """cloud_main.py with SmolLM2 and a run record, and edge_main.py against it through a proxy of its own."""

    def __init__(self, split: Path, directory: Path) -> None:
        self.split, self.directory, self.record_file = split, directory, directory / "runs.sqlite"
        self.log = ""
        self.stored = b""

    def ask(self, address: str, name: str, each: Person, sheet_id: str, *flags: str) -> ReallySent:
        profile_file = self.directory / name / "profile.toml"
        profile_file.parent.mkdir()
        profile_file.write_text(as_toml(each.profile), encoding="utf-8")
        with Proxy(address) as proxy:
            command = [
                sys.executable,
                str(ROOT / "edge_main.py"),
                "--ckpt_dir",
                str(self.split / "edge"),
                "--cloud",
                proxy.address,
                "--sheet_dir",
                str(SHEETS),
                "--prompt_id",
                sheet_id,
                "--profile_file",
                str(profile_file),
                "--yes",
                "--json",
                "--temperature",
                "0",
                "--max_gen_len",
                "8",
                "--threads",
                "1",
                *flags,
            ]
            ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
            assert ended.returncode == 0, ended.stderr
            sent = sent_over(proxy.wires)
        beside = "".join(p.read_text() for p in profile_file.parent.iterdir() if p != profile_file)
        return ReallySent(json.loads(ended.stdout), ended.stderr, beside, sent)


@pytest.fixture(scope="module")
def real_runs(
    smollm2_split: Splits, tmp_path_factory: pytest.TempPathFactory, people: list[Person]
) -> tuple[Real, list[ReallySent], ReallySent]:
    """Six people with six sheets, and the first once more with --sanitise off; two at a time."""
    real = Real(smollm2_split(), tmp_path_factory.mktemp("real"))
    flags = ("--record_file", real.record_file, "--max_seq_len", 2048, "--threads", 1)
    with cloud(real.split / "cloud", *flags) as served:
        with ThreadPoolExecutor(2) as pool:
            runs = [
                pool.submit(real.ask, served.address, f"{i}", people[i], sheet) for i, sheet in enumerate(SHEET_IDS[:6])
            ]
            off = pool.submit(real.ask, served.address, "off", people[0], "entities", "--sanitise", "off")
            done, raw = [run.result() for run in runs], off.result()
        real.stored = b"".join(p.read_bytes() for p in sorted(real.directory.glob("runs.sqlite*")))
        real.log = re.sub(r"(?<=127\.0\.0\.1:)\d+|(?<=pid )\d+", "", without_counts(served.output()))
    return real, done, raw


def texts_of_rows(real: Real, run: ReallySent) -> str:
    """The text that the captured rows are: they are the rows of the ids that the device says, and of no others."""
    half = read_half(real.split / "edge", "edge")
    prompt, tokens = run.answer["prompt_tokens"], run.answer["tokens"]
    ids = [*prompt, *tokens][: len(run.sent.rows)]
    welcome = Welcome(wire.VERSION, half.fingerprint, "float32", half.args.dim, 1, 2048, CHUNK)
    with torch.inference_mode():
        edge = edge_main.load(half, welcome, torch.device("cpu"))
        torch.testing.assert_close(run.sent.rows, rows_of(edge, ids, len(prompt)), rtol=1e-4, atol=1e-4)
    text: str = tokenizer_of(half).decode(ids)
    return text


def test_nothing_leaks_between_real_processes_with_a_real_model(
    real_runs: tuple[Real, list[ReallySent], ReallySent], people: list[Person]
) -> None:
    """The same search over edge_main.py, cloud_main.py, SmolLM2 and every byte of TCP between them.

    With --sanitise off it finds every value that the notes mention.
    """
    real, runs, off = real_runs
    found = list[str]()
    for each, run in zip(people, runs, strict=False):
        # "text" is the person's own screen; of "timing" its names are enough
        shown = {name: value for name, value in run.answer.items() if name not in ("text", "timing")}
        held = {
            "rows": texts_of_rows(real, run),
            "headers": run.sent.text,
            "stderr": run.stderr,
            "json": json.dumps(shown),
            "beside the profile": run.files,
            "log": real.log,
        }
        found += [f"{what}: {leak}" for what, text in held.items() for leak in leaks(text, each.canaries)]
        found += [f"bytes: {leak}" for leak in raw_leaks(run.sent.raw, each.canaries)]
    assert not found
    everybody = [canary for each in people[1 : len(runs)] for canary in each.canaries]  # the first ran unsanitised too
    assert not raw_leaks(real.stored, everybody)
    rows = recorded(real.record_file)
    assert len(rows) == len(runs) + 1
    assert not leaks("\n".join(rows), everybody)

    mentioned = {leak.partition(":")[0] for leak in leaks(people[0].profile["notes"], people[0].canaries)}
    assert len(mentioned) == len(people[0].canaries)
    assert {leak.partition(":")[0] for leak in leaks(texts_of_rows(real, off), people[0].canaries)} == mentioned
    assert "warning: --sanitise off" in off.stderr


# ---- B: the search would have found it


def test_unsanitised_the_same_search_finds_the_values_of_everybody(people: list[Person], place: Place) -> None:
    """The small model's runs too; ten people, every one of their values."""
    sheet = read_from_directory(str(SHEETS), "entities")
    for each in people[:10]:
        run = place.run(sheet, dict(each.profile), mode="off")
        found = leaks(place.tokenizer.decode(run.reply.prompt_tokens), each.canaries)
        assert {leak.partition(":")[0] for leak in found} == {canary.field for canary in each.canaries}


@torch.inference_mode()
def test_rows_alone_give_the_text_back(place: Place, tokenizer: Tokenizer, halves: Halves) -> None:
    """Why rows are searched as text: with the public first layer, each row's token is the one that makes that row."""
    words = OwnWords((Message("user", "I am Sari Wulandari."),))
    run = place.run(SourcedPrompt(words, "file:own"), {"name": "Sari Wulandari"}, mode="off")
    everything = range(tokenizer.n_words)
    cache, ids = halves.edge.new_cache(len(everything), len(run.sent.rows)), list[int]()
    for position, row in enumerate(run.sent.rows):
        candidates = torch.tensor(everything).view(-1, 1)
        rows = halves.edge(candidates, [position] * len(everything), cache)[:, 0]
        distances = (rows - row).abs().amax(1)
        ids.append(int(distances.argmin()))
        halves.edge(torch.full_like(candidates, ids[-1]), [position] * len(everything), cache)
    assert "Sari Wulandari" in tokenizer.decode(ids)
    assert ids[: len(run.reply.prompt_tokens)] == run.reply.prompt_tokens


# ---- C: what slips past the sanitiser stops at the gate

SECRETS: dict[str, Any] = {
    "name": "Sari Wulandari",
    "phone": "0812-3456-7890",
    "email": "sari.wulandari@example.com",
    "nik": "3273015204910003",
    "npwp": "12.345.678.9-012.345",
    "birth_date": "12 April 1991",
    "address": "Jl. Kapten Muslihat No. 21, Bogor 16121",
    "card": "4111 1111 1111 1111",
    "bank_account": "8830123456",
    "diagnosis": "schizophrenia",
    "income": "Rp 12.700.000",
    "employer": "PT Nusantara Kopi Abadi",
}
EACH_SECRET = pytest.mark.parametrize("name", SECRETS)


def refuses(name: str, pieces: Sequence[str | CleanText], chat: ChatFormat, tokenizer: Tokenizer) -> None:
    """The gate, with only this secret declared, refuses; it says which field, and nothing of the value."""
    sanitiser = Sanitiser(profile_from({name: SECRETS[name]}))
    with pytest.raises(PrivacyRefused) as refused:
        gate.check([Passage("user", tuple(pieces))], sanitiser, chat, tokenizer)
    assert_says_only_the_field(str(refused.value), name)


def assert_says_only_the_field(message: str, name: str) -> None:
    assert f"the value of {name};" in message
    assert not [w for w in re.findall(r"[^\W_]+", str(SECRETS[name])) if re.search(rf"\b{w}\b", message, re.IGNORECASE)]


@EACH_SECRET
def test_a_raw_value_in_a_clean_text_is_refused(name: str, chat: ChatFormat, tokenizer: Tokenizer) -> None:
    """A sanitiser that lets a value through is the fault that the gate is there for."""
    refuses(name, ("Notes: ", CleanText(f"please note {SECRETS[name]} today")), chat, tokenizer)


@EACH_SECRET
def test_a_raw_value_cut_in_two_is_refused(name: str, chat: ChatFormat, tokenizer: Tokenizer) -> None:
    """Two fields side by side, or with words of the sheet's in between, must not spell what neither says alone."""
    half = len(SECRETS[name]) // 2
    first, second = CleanText(SECRETS[name][:half]), CleanText(SECRETS[name][half:])
    refuses(name, ("Notes: ", first, second, "."), chat, tokenizer)
    refuses(name, ("Notes: ", first, "\nInterests: ", second, "."), chat, tokenizer)


@pytest.mark.parametrize("name", [name for name in SECRETS if name != "income"])  # whose last digits are noughts
@pytest.mark.parametrize("sheet_first", [True, False])
def test_a_raw_value_of_which_the_sheet_says_the_least_part_is_refused(
    name: str, sheet_first: bool, chat: ChatFormat, tokenizer: Tokenizer
) -> None:
    """The sheet's words and the person's meet without a border in the model's eyes."""
    value, few = SECRETS[name], len(SECRETS[name]) // 4
    pieces: tuple[str | CleanText, ...] = ("Notes: " + value[:few], CleanText(value[few:] + " today"))
    if not sheet_first:
        pieces = (CleanText("please note " + value[:-few]), value[-few:] + ".")
    refuses(name, pieces, chat, tokenizer)


class Slipping:
    """A chat format that puts more ids among those of the dialogue."""

    def __init__(self, chat: ChatFormat, extra: Sequence[int], where: str) -> None:
        self._chat, self._extra, self._where = chat, list(extra), where
        self.stop_ids, self.default_system = chat.stop_ids, chat.default_system

    def encode(self, dialog: Sequence[Message], prefix_messages: int = 0) -> Encoded:
        encoded = self._chat.encode(dialog, prefix_messages)
        at = {"front": 0, "middle": len(encoded.ids) // 2, "end": len(encoded.ids)}[self._where]
        return dataclasses.replace(encoded, ids=[*encoded.ids[:at], *self._extra, *encoded.ids[at:]])

    def encode_dialog_prompt(self, dialog: Sequence[Message]) -> list[int]:
        return self.encode(dialog).ids

    def prefixes(self, first_messages: Sequence[Sequence[Message]]) -> list[list[int]]:
        return self._chat.prefixes(first_messages)


@EACH_SECRET
@pytest.mark.parametrize("where", ["front", "middle", "end"])
def test_ids_of_a_value_that_nobody_has_seen_as_text_are_refused(
    name: str, where: str, chat: ChatFormat, tokenizer: Tokenizer
) -> None:
    """The ids are the last thing before the embeddings: what they say is checked, not what made them."""
    slipping = Slipping(chat, tokenizer.encode(SECRETS[name], bos=False, eos=False), where)
    with pytest.raises(PrivacyRefused) as refused:
        prepare(
            entities(), profile_from({name: SECRETS[name], "notes": "nothing"}), "schema", slipping, tokenizer, CONTEXT
        )
    message = str(refused.value)
    assert "another text than the prompt" in message or f"the value of {name};" in message
    assert not leaks(message, [Canary(name, "", (), tuple(re.findall(r"[^\W_]{4,}", SECRETS[name].casefold())))])


def entities() -> SourcedPrompt:
    return read_from_directory(str(SHEETS), "entities")


@pytest.fixture(scope="module")
def silent() -> Iterator[Proxy]:
    """Where a cloud could be; nobody ever calls."""
    with socket.create_server(("127.0.0.1", 0)) as nobody, Proxy(f"tcp://127.0.0.1:{nobody.getsockname()[1]}") as proxy:
        yield proxy


@EACH_SECRET
def test_past_a_sanitiser_that_does_nothing_not_one_byte_is_sent(
    name: str,
    tiny_split: Splits,
    silent: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole device program with its boundary taken out: the gate ends it before there is any connection."""
    monkeypatch.setattr(Sanitiser, "clean", lambda self, text: CleanText(text))
    profile = tmp_path / "profile.toml"
    profile.write_text(as_toml({name: SECRETS[name], "notes": f"please note {SECRETS[name]} today"}))
    with pytest.raises(PrivacyRefused) as refused:
        edge_main.main(
            str(tiny_split() / "edge"),
            silent.address,
            sheet_dir=str(SHEETS),
            prompt_id="entities",
            profile_file=str(profile),
            yes=True,
        )
    assert_says_only_the_field(str(refused.value), name)
    assert not silent.wires


def test_with_ids_slipped_in_not_one_byte_is_sent(
    tiny_split: Splits,
    silent: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: Tokenizer,
) -> None:
    """The same for what is put in between encoding and embedding."""
    extra, encode = tokenizer.encode(SECRETS["phone"], bos=False, eos=False), Llama3Format.encode_dialog_prompt
    monkeypatch.setattr(Llama3Format, "encode_dialog_prompt", lambda self, dialog: [*encode(self, dialog), *extra])
    profile = tmp_path / "profile.toml"
    profile.write_text(as_toml({"phone": SECRETS["phone"], "notes": "nothing"}))
    with pytest.raises(PrivacyRefused, match="nothing was sent"):
        edge_main.main(
            str(tiny_split() / "edge"),
            silent.address,
            sheet_dir=str(SHEETS),
            prompt_id="entities",
            profile_file=str(profile),
            yes=True,
        )
    assert not silent.wires


# ---- D: a sheet learns nothing from what happens to its own words

OPEN = {
    "recipient": "my sister",
    "interests": "tea, hiking",
    "budget": "Rp 400.000",
    "notes": "nothing sweet",
    "city": "Bandung",
    "trip": "a week in Norway",
    "headcount": 40,
    "occasion": "farewell",
}
SARI = {**SECRETS, **OPEN}
JOHN = {
    **OPEN,
    "name": "John Wexcombe",
    "phone": "+1 415 555 0123",
    "email": "jw77@example.org",
    "ssn": "519-79-7725",
    "birth_date": "3 March 1960",
    "address": "742 Larkspur Lane, Oakland, OH 44111",
    "diagnosis": "epilepsy",
    "income": "USD 85,000",
    "employer": "Penhallow Ltd",
    "bank_account": "5550001112",
    "card": "4987 3367 5410 8402",
}


def outcome(
    found: SourcedPrompt, profile: dict[str, Any], chat: ChatFormat, tokenizer: Tokenizer
) -> tuple[str, list[str]]:
    """What leaves of a sheet, with ``{}`` for each of the person's pieces, and the pieces; fails if a letter of the
    sheet's is not as it was written.
    """
    sheet = found.prompt
    assert isinstance(sheet, Sheet)
    text = prepare(found, profile_from(profile), "schema", chat, tokenizer, CONTEXT).outgoing.text
    of_provider = found.provider_system if found.party or not sheet.system else ""
    for part in (of_provider, sheet.system, *(t for pair in sheet.examples for t in pair)):
        assert part.strip() in text
    before, start, user = text.rpartition("<|start_header_id|>user<|end_header_id|>\n\n")
    asked = "\n".join(sheet.questions).strip()
    literal = re.split("|".join(re.escape("{" + name + "}") for name in sheet.asks_for), asked)
    matched = re.match("(.*?)".join(map(re.escape, literal)) + r"<\|eot_id\|>", user, re.DOTALL)
    assert matched is not None
    return before + start + "{}".join(literal) + user[matched.end() :], list(matched.groups())


@pytest.mark.parametrize("party", ["", "spy"])
def test_a_sheet_that_lists_a_persons_values_runs_for_them_as_for_anybody(
    party: str, chat: ChatFormat, tokenizer: Tokenizer
) -> None:
    """Were its words masked, or the run refused, where they equal a secret, a thousand guesses would find them."""
    values = [str(value) for value in SECRETS.values()]
    others = ["Sari", "wulandari", "6281234567890", "12/04/1991", "12,7 juta"]
    listed = "\n".join([*values, *map(str.upper, values), *others])
    sheet = Sheet(
        (f"Is {{recipient}} one of these?\n{listed}\nNotes: {{notes}} {values[0]}{{interests}}{values[1]}",),
        system=f"Compare with:\n{listed}",
        asks_for=("recipient", "notes", "interests"),
        examples=((f"{listed}\n{values[0]}?", f"Yes: {values[2]}"),),
    )
    found = SourcedPrompt(sheet, "vendor:spy" if party else "provider", "spy", party, "Be kind.")
    sari, john = (outcome(found, profile, chat, tokenizer) for profile in (SARI, JOHN))
    assert sari[0] == john[0]
    assert sari[0].count(listed) == 3
    assert sari[1] == john[1] == [OPEN["recipient"], OPEN["notes"], OPEN["interests"]]


@pytest.mark.long
@EACH_SECRET
def test_a_sheet_that_puts_a_guess_around_a_field_runs_for_whoever_it_guesses(
    name: str, chat: ChatFormat, tokenizer: Tokenizer
) -> None:
    """Each way to cut the guess in two, with the person's words in the gap: not one of them is an answer."""
    guess = str(SECRETS[name])
    for cut in range(len(guess) + 1):
        for gap in ("{interests}", " {city} ", "{headcount}"):
            asked = (gap.strip(" {}"),)
            found = SourcedPrompt(
                Sheet((f"{guess[:cut]}{gap}{guess[cut:]}",), asks_for=asked), "vendor:spy", "spy", "spy"
            )
            sari, john = (outcome(found, profile, chat, tokenizer) for profile in (SARI, JOHN))
            assert sari == john, (cut, gap)


@pytest.mark.parametrize("sheet_id", SHEET_IDS)
@pytest.mark.parametrize(
    "name",
    ["Mei", "Will", "Indah", "April", "Grace", "Bunga", "Budget Tea", "Anda Kado", "Holiday Gifts", "Medan Jazz"],
)
def test_a_person_whose_name_is_an_ordinary_word_can_use_every_sheet(
    name: str, sheet_id: str, chat: ChatFormat, tokenizer: Tokenizer
) -> None:
    """Their name stands in sheets as a word: it passes there, and is a tag in what is theirs."""
    profile = {**OPEN, "name": name, "spouse": "Rudi", "employer": "PT Maju", "birth_date": "1991-05-02"}
    profile["notes"] = f"It will be in May or April, with grace; bunga yang indah. Signed, {name}"
    found = read_from_directory(str(SHEETS), sheet_id)
    words, pieces = outcome(found, profile, chat, tokenizer)
    assert words == outcome(found, {**OPEN, "name": "Zzyx", "spouse": "Zzyy"}, chat, tokenizer)[0]
    assert not [piece for piece in pieces if re.search(rf"\b{name}\b", piece, re.IGNORECASE)]


@pytest.mark.parametrize(
    "secret",
    [
        {"diagnosis": "mental health problems"},
        {"employer": "Private"},
        {"employer": "PT Address Card Number"},
        {"religion": "religion of my village"},
        {"name": "Phone Number"},
    ],
)
def test_a_value_that_holds_the_word_of_a_tag_is_no_obstacle(
    secret: dict[str, str], chat: ChatFormat, tokenizer: Tokenizer
) -> None:
    """A tag is the product's own word; that a value contains ``health`` does not make ``[HEALTH_1]`` a leak."""
    (value,) = secret.values()
    sheet = SourcedPrompt(Sheet(("{notes}",), asks_for=("notes", *secret)), "provider", "all")
    prepared = prepare(sheet, profile_from({**secret, "notes": f"About {value}."}), "schema", chat, tokenizer, CONTEXT)
    assert value.casefold() not in prepared.outgoing.text.casefold()
    assert "_1]" in prepared.outgoing.text


@pytest.mark.parametrize(
    "profile",
    [
        {
            "address": "Jl. Taman Sari 5, Bandung",
            "spouse": "Rudi Hartono",
            "notes": "Kado untuk taman Rudi, sari bunga",
        },
        {"address": "Jl. Taman Sari 5, Bandung", "interests": "taman", "style": "sari"},
        {"address": "12 Elm St, San Francisco, CA 94110", "trip": "a week in San Diego"},
        {"bank_account": "33392150", "notes": "Software 392150\u200dSoftware E"},
        {"name": "Wulandari Putri", "spouse": "Rudi", "notes": "#WulandariRudi2026"},
        {"headcount": 12, "occasion": "April sale", "birth_date": "12 April 1991"},
        {"phone": "0812-3456-7890", "interests": ["0812", "3456", "7890"]},
    ],
)
def test_an_honest_profile_is_never_refused(profile: dict[str, Any], chat: ChatFormat, tokenizer: Tokenizer) -> None:
    """A gate that shuts in the person's own face protects nobody."""
    asked = tuple(name for name in ("address", *profile))
    found = SourcedPrompt(Sheet(("What?",), asks_for=tuple(dict.fromkeys(asked))), "provider", "all")
    assert prepare(found, profile_from(profile), "schema", chat, tokenizer, CONTEXT).outgoing.ids


def test_an_iban_in_an_indonesian_sheet_has_a_label(chat: ChatFormat, tokenizer: Tokenizer) -> None:
    """It is called so in both languages."""
    found = SourcedPrompt(Sheet(("Apa?",), asks_for=("iban",), language="id"), "provider", "iban")
    prepared = prepare(found, profile_from({"iban": "GB82WEST12345698765432"}), "schema", chat, tokenizer, CONTEXT)
    assert prepared.outgoing.text.endswith(
        "Iban: [ACCOUNT_1]<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


# ---- E: the boundary is alone

ALONE = """
    import os, socket, sys, traceback, urllib.request
    calls = []
    def refused(*args, **kwargs):
        names = [frame.name for frame in traceback.extract_stack()]
        calls.append("_has_ipv6" if "_has_ipv6" in names else names[-2])
        raise RuntimeError("the network was called")
    class Refused(socket.socket):
        def __init__(self, *args, **kwargs):
            refused()
    socket.socket, socket.create_connection, socket.getaddrinfo = Refused, refused, refused
    urllib.request.urlopen = urllib.request.OpenerDirector.open = refused
    sys.addaudithook(lambda event, _: calls.append(event) if event.startswith(("socket.", "urllib.")) else None)
    import edge_main
    from llama.chat import Llama3Format
    from llama.privacy.preparing import holdings, prepare
    from llama.privacy.profile import read_profile
    from llama.privacy.restoring import Restorer
    from llama.prompt import read_from_directory
    from llama.tokenizer import Tokenizer
    assert set(calls) <= {"_has_ipv6"}  # urllib3, once: whether a socket of this machine's own could be made
    calls.clear()
    _, tokenizer_file, profile_file, sheets, *ids = sys.argv
    tokenizer, profile = Tokenizer(tokenizer_file), read_profile(profile_file)
    for sheet_id in ids:
        found = read_from_directory(sheets, sheet_id)
        prepared = prepare(found, profile, "schema", Llama3Format(tokenizer), tokenizer, 4096)
        restorer = Restorer(prepared.sanitiser.tags)
        sent = "For " + " and ".join(prepared.sanitiser.tags) + "."
        shown = restorer.push(sent) + restorer.finish()
        assert restorer.restored == len(prepared.sanitiser.tags) > 0 and "[" not in shown
        holdings(found, profile, prepared, sent, shown, "")
    print(calls, [l for l in map(os.readlink, map("/proc/self/fd/{}".format, os.listdir("/proc/self/fd")[:-1]))
                  if l.startswith("socket:")])
    try:
        socket.getaddrinfo("example.com", 80)
    except RuntimeError:
        print("blocked" if calls else "not blocked")
"""


@pytest.mark.process
def test_sanitising_the_gate_and_restoring_never_call_the_network(
    golden: Path, tmp_path: Path, people: list[Person]
) -> None:
    """In a process of its own in which any socket raises, from the first import on; the last line proves the block."""
    profile = tmp_path / "profile.toml"
    profile.write_text(as_toml(people[1].profile), encoding="utf-8")
    tokenizer_file = golden / "tiny-llama3" / "tokenizer.model"
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ALONE), tokenizer_file, profile, SHEETS, "birthday", "entities"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["[] []", "blocked"]


def test_what_sanitising_a_full_profile_costs(
    people: list[Person], chat: ChatFormat, tokenizer: Tokenizer, capfd: pytest.CaptureFixture[str]
) -> None:
    """Printed, not bounded: a busy machine is no fault. The notes are cleaned like any others, however long."""
    each = people[1]
    notes = "\n".join([each.profile["notes"]] * 8)[:2048]
    profile, times = profile_from({**each.profile, "notes": notes}), list[float]()
    for _ in range(5):
        started = time.perf_counter()
        prepared = prepare(entities(), profile, "schema", chat, tokenizer, 4096)
        times.append(time.perf_counter() - started)
    assert not leaks(prepared.outgoing.text, each.canaries)
    with capfd.disabled():
        print(
            f"\nsanitising and gate, {len(profile.fields)} fields, {len(notes.encode())} bytes of notes: "
            f"{1000 * sorted(times)[2]:.1f} ms (median of 5)"
        )
